from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from builders import trace_of
from synthetic import assert_same, collected, run

from gradscope.pieces import broken, cut, joined, size_of
from gradscope.trace import no_units


@pytest.mark.parametrize("rows", [range(0, 40, 2), [3], [], range(40)])
def test_a_cut_is_what_would_have_been_recorded_of_these_steps_alone(rows) -> None:
    appended = list(islice(run(4), 40))
    sites, meta = appended[-1][1:]
    whole = collected(appended)
    slow = collected([(appended[row][0], sites, meta) for row in rows])
    slow = replace(slow, sites=sites, meta=meta, events=whole.events, units=no_units())
    made = cut(whole, np.array(list(rows), dtype=np.intp))
    if len(rows):
        assert_same(made, slow)
    else:
        assert not len(made.steps)
        assert not len(made.times.step)


def test_pieces_that_follow_each_other_make_the_whole() -> None:
    appended = list(islice(run(6), 50))
    whole = replace(collected(appended), units=no_units())
    pieces = []
    for start, stop in ((0, 1), (1, 17), (17, 50)):
        piece = collected(appended[start:stop])  # of fewer sites, at first
        pieces.append(replace(piece, units=no_units()))
    assert_same(joined(pieces, whole.sites, whole.meta, whole.events), whole)


def test_what_was_never_observed_takes_no_place() -> None:
    trace = collected(islice(run(1), 3))
    unseen = np.broadcast_to(np.float32(np.nan), (3, len(trace.sites)))
    table = dict(trace.statistics) | {"rms": unseen}
    assert size_of(trace) - size_of(replace(trace, statistics=table)) == unseen.size * 4
    made = joined([replace(trace, statistics=table)] * 2, trace.sites, {})
    assert made.statistics["rms"].strides == (0, 0)
    assert np.isnan(made.statistics["rms"]).all()


def test_where_a_step_is_broken() -> None:
    trace = trace_of(output_nonfinite_count=[[0, 0], [3, 0], [0, 0]], output_rms=[1.0, 1.0], loss=[1, 2, np.inf])
    assert broken(trace).tolist() == [[False] * 3, [True, False, False], [False, False, True]]

"""Which traces belong together, and in what order their modules ran."""

import dataclasses

import numpy as np
import pytest
from builders import rank_trace, trace_of

from gradscope.errors import UsageError
from gradscope.ranks import common_steps, events_of, in_order, meta_of, rank_of, sites_of
from gradscope.records import Event, Quantity, Site


def test_ranks_are_sorted_by_number_and_not_by_name():
    ranks = {f"{name}.h5": rank_trace(number, 3) for name, number in (("b", 2), ("c", 0), ("a", 1))}
    assert [rank_of(trace) for trace in in_order(ranks)] == [(0, 3), (1, 3), (2, 3)]


def merged():
    meta = {"distributed": {"world_size": 2, "parameters": "replicated", "ranks": [0, 1]}}
    return trace_of(output_rms=[1.0], meta=meta)


WRONG = {
    "of a whole run": (
        {"a.h5": trace_of(output_rms=[1.0]), "b.h5": rank_trace(1)},
        r"^a\.h5 is no file of a rank, such as run\.rank0\.h5\.$",
    ),
    "merged": ({"a.h5": merged()}, r"^a\.h5 is no file of a rank, such as run\.rank0\.h5\.$"),
    "one missing": (
        {"a.h5": rank_trace(1)},
        r"^the file of rank 0 of 2 is missing; a merge needs all, as `run\.rank\*\.h5` names them\.$",
    ),
    "two missing": ({"a.h5": rank_trace(1, 3)}, r"^the file of ranks 0, 2 of 3 is missing"),
    "twice": (
        {"a.h5": rank_trace(0), "b.h5": rank_trace(0)},
        r"^a\.h5 and b\.h5 are both of rank 0; give each rank's file once\.$",
    ),
    "of other numbers": (
        {"a.h5": rank_trace(0), "b.h5": rank_trace(1, 4)},
        r"^b\.h5 is of 4 ranks and a\.h5 of 2; they are not of one run\.$",
    ),
    "another model": (
        {"a.h5": rank_trace(0), "b.h5": rank_trace(1, model="Other")},
        r"^b\.h5 has another model than a\.h5; they are not of one run\.$",
    ),
    "other parameters": (
        {"a.h5": rank_trace(0), "b.h5": rank_trace(1, shapes={"0.weight": [3]})},
        r"^b\.h5 has other parameters than a\.h5; they are not of one run\.$",
    ),
    "another schedule": (
        {"a.h5": rank_trace(0), "b.h5": rank_trace(1, every=5)},
        r"^b\.h5 has another schedule than a\.h5; they are not of one run\.$",
    ),
}


@pytest.mark.parametrize(("traces", "sentence"), WRONG.values(), ids=WRONG)
def test_what_does_not_belong_together_is_refused(traces, sentence):
    with pytest.raises(UsageError, match=sentence):
        in_order(traces)


def with_steps(*steps):
    trace = trace_of(output_rms=[1.0], steps=len(steps))
    return dataclasses.replace(trace, steps=np.array(steps))


def test_only_steps_that_all_ranks_recorded_are_merged_and_the_rest_is_told():
    steps, (event,) = common_steps([with_steps(0, 5, 10, 15), with_steps(0, 5), with_steps(0, 5, 10)])
    assert steps.tolist() == [0, 5]
    assert event == Event(
        step=10,
        kind="not-observed",
        message="2 steps, 10 to 15, are left out: ranks 1, 2 did not record all of them",
    )
    assert common_steps([with_steps(0, 5), with_steps(0, 5)])[1] == ()


def test_ranks_without_a_step_in_common_are_refused():
    with pytest.raises(UsageError, match=r"no step that all ranks have recorded \(rank 0 has 1, rank 1 has 2\)"):
        common_steps([with_steps(0), with_steps(1, 2)])


def ran(*modules):
    return [Site(module=m, module_type="L", quantity=Quantity.OUTPUT, depth=d) for d, m in enumerate(modules, 1)]


def test_a_module_that_rank_0_did_not_run_stands_where_it_ran_elsewhere():
    sites = sites_of([ran("stem", "head"), ran("stem", "branch", "head"), ran("first", "stem")])
    order = [site.module for site in sorted(sites, key=lambda site: site.depth)]
    assert order == ["first", "stem", "branch", "head"]
    assert sorted(site.depth for site in sites) == [1, 2, 3, 4]


def test_the_input_stays_at_depth_0_and_what_never_ran_without_one():
    given = Site(module="", module_type="M", quantity=Quantity.INPUT, depth=0)
    idle = Site(module="idle", module_type="L", quantity=Quantity.WEIGHT, name="weight")
    assert [site.depth for site in sites_of([[given, idle, *ran("a")]])] == [0, -1, 1]


def test_an_event_of_some_ranks_says_of_which():
    both, one = Event(step=3, kind="k", message="all"), Event(step=1, kind="k", message="only here")
    traces = [dataclasses.replace(rank_trace(r), events=(both, one) if r else (both,)) for r in range(2)]
    assert [(event.step, event.message) for event in events_of(traces)] == [(1, "rank 1: only here"), (3, "all")]


def test_the_whole_is_blind_only_where_every_rank_is():
    never, jit = {"module": "branch", "why": "never ran"}, {"module": "op", "why": "is compiled"}
    meta = meta_of([rank_trace(0, blind_spots=[never, jit]), rank_trace(1, blind_spots=[jit])])
    assert meta["blind_spots"] == [jit]
    assert meta["distributed"] == {"world_size": 2, "parameters": "replicated", "ranks": [0, 1]}
    assert "blind_spots" not in meta_of([rank_trace(0), rank_trace(1)])


def test_a_module_breaks_in_the_step_in_which_it_does_on_the_first_rank():
    broken = [{"encoder": 7}, {"decoder": 4, "encoder": 5}, None]
    traces = [rank_trace(rank, 3, **({"broken": one} if one else {})) for rank, one in enumerate(broken)]
    assert meta_of(traces)["broken"] == {"encoder": 5, "decoder": 4}
    assert "broken" not in meta_of([rank_trace(0), rank_trace(1)])

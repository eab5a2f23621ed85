"""The few numbers of a step, against what a reader of the trace would compute by hand."""

import numpy as np
import pytest
from builders import trace_of

from gradscope.integrations.selection import Selection, step_aggregates, trace_aggregates, trace_extremes
from gradscope.trace import StepRecord, Trace

RMS = np.array([[1.0, 2.0, 8.0], [1.0, 0.5, 4.0]])


def trace() -> Trace:
    return trace_of(
        types=["Linear", "LayerNorm", "Linear"],
        output_grad_rms=RMS,
        output_dead_fraction=np.array([[0.5, np.nan, 0.0], [0.75, np.nan, np.nan]]),
        weight_l2_norm=np.array([[10.0, 0.0, 4.0]] * 2),
        weight_update_l2_norm=np.array([[1.0, 1.0, 1.0], [2.0, 1.0, np.nan]]),
        output_nonfinite_count=np.array([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0]]),
        loss=[2.0, 1.0],
    )


def test_the_aggregates_of_each_step() -> None:
    expected = {
        "loss": [2.0, 1.0],
        "gain_smallest": [1 / 8, 1 / 4],  # from the first to the last: what only scales in between is no layer
        "gain_largest": [1 / 8, 1 / 4],
        "dead_fraction_largest": [0.5, 0.75],
        "saturated_fraction_largest": [np.nan, np.nan],
        "update_ratio_median": [(0.1 + 0.25) / 2, 0.2],  # a weight of zero has no ratio
        "nonfinite_elements": [4.0, 0.0],
    }
    found = trace_aggregates(Selection(trace().sites), trace())
    assert found.keys() == expected.keys()
    for name, series in expected.items():
        np.testing.assert_allclose(found[name], series, rtol=1e-6, err_msg=name)


def test_a_step_by_itself_has_the_same_numbers_but_for_those_that_are_not_known() -> None:
    whole = trace()
    record = StepRecord(
        step=1,
        per_step={"loss": 1.0},
        values=np.stack([column[1] for column in whole.statistics.values()], axis=1),
        time_index=np.zeros((0, 2), np.int32),
        time_values=np.zeros((0, len(whole.statistics)), np.float32),
    )
    found = step_aggregates(Selection(whole.sites), record)
    series = trace_aggregates(Selection(whole.sites), whole)
    assert found == {name: pytest.approx(values[1]) for name, values in series.items() if not np.isnan(values[1])}
    assert "saturated_fraction_largest" not in found


def test_the_sites_that_stand_out_by_their_median() -> None:
    found = [(e.measure, str(e.site), e.value) for e in trace_extremes(Selection(trace().sites), trace())]
    assert found == [
        ("smallest gain", "0:output_grad", pytest.approx(3 / 16)),
        ("largest gain", "0:output_grad", pytest.approx(3 / 16)),
        ("largest dead_fraction", "0:output", pytest.approx(0.625)),
        ("smallest update_ratio", "0.weight:weight_update", pytest.approx(0.15)),
        ("smallest update_ratio", "2.weight:weight_update", pytest.approx(0.25)),
        ("largest update_ratio", "2.weight:weight_update", pytest.approx(0.25)),
        ("largest update_ratio", "0.weight:weight_update", pytest.approx(0.15)),
    ]


def test_of_many_sites_three_are_shown() -> None:
    gradients = 2.0 ** np.arange(12)[None, :] ** 1.5
    wide = trace_of(output_grad_rms=gradients, weight_update_l2_norm=np.ones((1, 12)))
    found = [e for e in trace_extremes(Selection(wide.sites), wide) if e.measure == "smallest gain"]
    assert [e.site.module for e in found] == ["10", "9", "8"]


def test_nothing_recorded_is_nothing_to_say() -> None:
    empty = trace_of(output_rms=np.full((0, 2), np.nan), steps=0)
    assert all(len(series) == 0 for series in trace_aggregates(Selection(empty.sites), empty).values())
    assert trace_extremes(Selection(empty.sites), empty) == []
    assert trace_extremes(Selection(()), empty) == []

"""From what probes emit to a step's record."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradscope.recorder import StepRecorder, _last_of
from gradscope.records import COLUMN, Quantity
from gradscope.statistics import measure, measure_many


def recorder() -> StepRecorder:
    made = StepRecorder({"a": "Linear"}, lambda: None)
    made.on, made.boundary = True, False
    return made


def close(made: StepRecorder):
    return made.end_step(lr=0.1, loss_scale=1.0)


@pytest.mark.parametrize("n", [5, 10_000])
def test_what_happens_to_a_tensor_later_does_not_matter(n):
    made = recorder()
    x = torch.ones(n)
    made.emit(made.site("a", Quantity.OUTPUT), x)
    x.zero_()
    assert close(made).values[0, COLUMN["mean"]] == 1


def test_runs_of_a_step_have_their_times_and_a_whole():
    made = recorder()
    site = made.site("a", Quantity.OUTPUT)
    parts = [torch.randn(7), torch.randn(9000), torch.randn(3)]
    for time, part in enumerate(parts):
        made.emit(site, part, time)
    record = close(made)
    assert record.time_index.tolist() == [[0, 0], [0, 1], [0, 2]]
    np.testing.assert_array_equal(record.time_values, measure_many(parts))
    np.testing.assert_allclose(
        record.values[0, : COLUMN["dead_fraction"]], measure(torch.cat(parts))[: COLUMN["dead_fraction"]], rtol=1e-5
    )


def test_the_last_of_one_site_and_time_counts():
    made = recorder()
    site = made.site("a", Quantity.WEIGHT_GRAD, "weight")
    for value in (1.0, 2.0, 3.0):
        made.emit(site, torch.full((4,), value))
    record = close(made)
    assert record.values[0, COLUMN["mean"]] == 3
    assert not len(record.time_index)


def test_the_same_tensor_has_the_same_statistics():
    made = recorder()
    source, other = made.site("a", Quantity.OUTPUT_GRAD), made.site("b", Quantity.INPUT_GRAD)
    made.emit_gradient(0, 0, source, 0, None, torch.randn(5))
    made.same(other, 0, source, 0)
    record = close(made)
    np.testing.assert_array_equal(record.values[0], record.values[1])


def test_a_pass_that_no_backward_reached_is_dropped_if_another_was_reached():
    made = recorder()
    site = made.site("a", Quantity.OUTPUT)
    made.forward = 1
    made.emit(site, torch.ones(3), 0)
    made.forward = 2
    made.emit(site, torch.zeros(3), 1)
    made.emit_gradient(0, 1, made.site("a", Quantity.OUTPUT_GRAD), 0, None, torch.ones(3))
    assert close(made).values[0, COLUMN["mean"]] == 1


def test_nothing_is_carried_into_the_next_step():
    made = recorder()
    site = made.site("a", Quantity.OUTPUT)
    made.emit(site, torch.ones(3))
    made.add_loss(1.0)
    close(made)
    record = close(made)
    assert np.isnan(record.values).all()
    assert np.isnan(record.per_step["loss"])


def test_a_site_registered_later_has_its_own_row():
    made = recorder()
    made.emit(made.site("a", Quantity.OUTPUT), torch.ones(3))
    assert close(made).values.shape[0] == 1
    made.emit(made.site("b", Quantity.OUTPUT), torch.ones(3))
    values = close(made).values
    assert np.isnan(values[0]).all()
    assert values[1, COLUMN["mean"]] == 1


def test_depth_is_known_once_a_module_has_run():
    made = recorder()
    made.site("a", Quantity.WEIGHT, "weight")
    assert made.sites[0].depth == -1
    made.completed("b")
    made.completed("a")
    made.completed("b")
    assert made.sites[0].depth == 2
    assert made.sites[0].module_type == "Linear"


def test_a_nan_loss_is_a_loss():
    made = recorder()
    made.add_loss(float("nan"))
    record = close(made)
    loss = record.values[made.site("", Quantity.LOSS)]
    assert (loss[COLUMN["numel"]], loss[COLUMN["nonfinite_count"]]) == (1, 1)


def test_a_gradient_of_a_step_that_is_not_recorded_is_ignored():
    made = recorder()
    made.on = False
    made.emit_gradient(0, 0, made.site("a", Quantity.OUTPUT_GRAD), 0, None, torch.ones(3))
    assert not made.holds_something


@given(
    places=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=12),
    wanted=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=8),
)
def test_of_several_rows_at_one_place_the_last_is_found(places, wanted):
    at = {place: row for row, place in enumerate(places)}
    found = _last_of(*(np.array(pairs, dtype=np.int64).reshape(-1, 2) for pairs in (places, wanted)))
    assert found.tolist() == [at.get(place, -1) for place in wanted]

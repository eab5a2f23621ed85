"""Shrinking keeps what is sick: against a loop over the blocks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradscope.reports.shrink import Cells, shrunk, starts_of

NUMBERS = st.one_of(st.just(0.0), st.just(math.nan), st.floats(1e-30, 1e30))


def cells_of(values, nonfinite=None):
    values = np.atleast_2d(np.array(values, dtype=float))
    broken = np.zeros(values.shape, bool) if nonfinite is None else np.atleast_2d(nonfinite)
    return Cells(values=values, nonfinite=broken, seen=~np.isnan(values) | broken)


def largest_distances(row, starts):
    """Of each block from the row's median, in nats; infinite for a zero, −1 for a block without numbers."""
    logs = sorted(math.log(v) for v in row if v > 0)
    middle = (logs[(len(logs) - 1) // 2] + logs[len(logs) // 2]) / 2 if logs else 0.0

    def distance(value):
        return -1.0 if math.isnan(value) else math.inf if value == 0 else abs(math.log(value) - middle)

    ends = [*starts[1:], len(row)]
    return [max(map(distance, row[a:b])) for a, b in zip(starts, ends, strict=True)], distance


@given(arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=NUMBERS), st.integers(1, 30))
def test_each_cell_shows_a_value_of_its_block_that_lies_farthest_from_the_median(values, most):
    starts = starts_of(values.shape[1], most)
    found = shrunk(cells_of(values), starts)
    ends = [*starts[1:], values.shape[1]]
    for row, of_row in zip(found.values, values.tolist(), strict=True):
        largest, distance = largest_distances(of_row, list(starts))
        assert [distance(value) for value in row] == pytest.approx(largest, abs=1e-9)
        assert all(v in of_row[a:b] or math.isnan(v) for v, a, b in zip(row, starts, ends, strict=True))


def test_a_single_spike_and_a_single_fall_stay():
    values = np.ones((2, 1000))
    values[0, 371], values[1, 802] = 1e6, 1e-6
    found = shrunk(cells_of(values), starts_of(1000, 10))
    assert found.values[0, 3] == 1e6
    assert found.values[1, 8] == 1e-6
    assert (found.values == 1).sum() == 18


def test_one_broken_step_and_one_zero_stay():
    values, nonfinite = np.ones((1, 100)), np.zeros((1, 100), bool)
    nonfinite[0, 57], values[0, 12] = True, 0.0
    found = shrunk(cells_of(values, nonfinite), starts_of(100, 5))
    assert found.nonfinite.tolist() == [[False, False, True, False, False]]
    assert found.values[0].tolist() == [0, 1, 1, 1, 1]


@given(arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 20)), elements=st.floats(0, 1)), st.integers(1, 20))
def test_of_shares_each_cell_shows_the_largest(values, most):
    starts = starts_of(values.shape[1], most)
    found = shrunk(cells_of(values), starts, shares=True)
    ends = [*starts[1:], values.shape[1]]
    assert found.values.tolist() == [
        [max(row[a:b]) for a, b in zip(starts, ends, strict=True)] for row in values.tolist()
    ]


def test_a_share_that_was_not_observed_hides_no_other():
    found = shrunk(cells_of([[np.nan, 0.0, np.nan, np.nan]]), starts_of(4, 2), shares=True)
    assert found.values[0, 0] == 0
    assert found.seen.tolist() == [[True, False]]


def test_only_numbers_above_zero_have_logarithms():
    found = cells_of([[100.0, 0.0, np.nan, np.inf, 1e-3]], [[False, False, False, False, True]])
    assert found.logs().tolist()[0][0] == 2.0
    assert np.isnan(found.logs()[0, 1:]).all()


def test_a_block_is_seen_where_one_of_its_steps_was():
    found = shrunk(cells_of([[np.nan, np.nan, np.nan, 5.0]]), starts_of(4, 2))
    assert found.seen.tolist() == [[False, True]]
    assert found.values[0, 1] == 5.0


@pytest.mark.parametrize(("steps", "most"), [(0, 5), (3, 5), (10, 3), (1000, 7)])
def test_blocks_cover_all_steps_evenly(steps, most):
    starts = starts_of(steps, most)
    lengths = np.diff(np.append(starts, steps))
    assert lengths.sum() == steps
    assert len(starts) == min(steps, most)
    assert not len(starts) or lengths.max() - lengths.min() <= 1

"""Rows of statistics by law: what is known of parts, or of a multiple, agrees with what is measured."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradscope.records import COLUMN
from gradscope.rows import combine, scalar_row, scaled
from gradscope.statistics import measure, measure_many

finite_floats = st.floats(-1e6, 1e6, width=32).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
vectors = st.lists(finite_floats, min_size=1, max_size=40)


@given(vectors, st.floats(1e-3, 1e3))
def test_scaling_a_tensor_scales_its_statistics(values, factor):
    x = torch.tensor(values, dtype=torch.float64)
    row, wanted = scaled(measure(x), factor), measure(factor * x)
    scale = float(np.nan_to_num(wanted[COLUMN["abs_max"]])) or 1.0
    np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-5 * scale)


@given(st.lists(st.lists(finite_floats | st.sampled_from([math.nan, math.inf]), max_size=12), min_size=1, max_size=5))
def test_parts_combine_to_the_whole(parts):
    rows = measure_many([torch.tensor(part) for part in parts])
    whole = torch.tensor([v for part in parts for v in part])
    row, wanted = combine(rows)[0], measure(whole)
    scale = float(np.nan_to_num(wanted[COLUMN["abs_max"]]))
    np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-4 * scale)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_several_wholes_are_combined_at_once_as_one_by_one(sizes):
    rows = measure_many([torch.randn(9) for _ in range(sum(sizes))])
    starts = [0, *np.cumsum(sizes)[:-1].tolist()]
    together = combine(rows, starts)
    for whole, start, size in zip(together, starts, sizes, strict=True):
        np.testing.assert_allclose(whole, combine(rows[start : start + size])[0], rtol=1e-6)


def test_fractions_are_weighted_by_the_size_of_the_parts():
    rows = measure_many([torch.zeros(3), torch.ones(9)])
    rows[0, COLUMN["saturated_fraction"]] = 1.0
    rows[1, COLUMN["saturated_fraction"]] = 0.5
    whole = combine(rows)[0]
    assert whole[COLUMN["zero_fraction"]] == pytest.approx(3 / 12)
    assert whole[COLUMN["saturated_fraction"]] == pytest.approx((3 + 4.5) / 12)


def test_of_attention_the_entropy_is_a_mean_and_the_logit_the_largest():
    rows = measure_many([torch.zeros(4), torch.zeros(12)])
    rows[:, COLUMN["attention_entropy"]], rows[:, COLUMN["max_logit"]] = [1.0, 0.5], [3.0, -7.0]
    whole = combine(rows)[0]
    assert whole[COLUMN["attention_entropy"]] == pytest.approx((4 + 6) / 16)
    assert whole[COLUMN["max_logit"]] == 3


@pytest.mark.parametrize("value", [0.0, -2.5, 1e-30, math.nan, -math.inf])
def test_a_number_is_a_tensor_of_one_element(value):
    np.testing.assert_array_equal(scalar_row(value), measure(torch.tensor([value])))

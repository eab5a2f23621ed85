"""The two spreads, against loops over pairs in double precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradscope.spread import MOST, MOST_FEATURES, _of_directions, spread_of


def sample_spread(x: Tensor) -> float:
    """As its definition says, one sample after the other."""
    rows = [row.double() for row in x.flatten(1)]
    mean = sum(rows) / len(rows)
    whole = sum(float(row.square().sum()) for row in rows)
    return math.sqrt(sum(float((row - mean).square().sum()) for row in rows) / whole) if whole else 0.0


def direction_spread(rows: Tensor) -> float:
    """1 − the mean cosine over all pairs of different rows that have a direction."""
    known = [row.double() for row in rows.flatten(1) if row.any()]
    cosines = [float(torch.dot(a, b) / a.norm() / b.norm()) for a in known for b in known if a is not b]
    return 1 - sum(cosines) / len(cosines) if cosines else math.nan


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 9),
    tokens=st.integers(2, 6),
    seed=st.integers(0, 99),
    mean=st.sampled_from([0.0, 1.0, 30.0]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_both_follow_their_definitions(n, tokens, seed, mean, scale):
    x = scale * (torch.randn(n, tokens, 5, generator=torch.Generator().manual_seed(seed)) + mean)
    of_tokens, of_samples = spread_of(x, tokens=True), spread_of(x, tokens=False)
    assert float(of_tokens.samples) == float(of_samples.samples) == pytest.approx(sample_spread(x), rel=1e-6)
    wanted = sum(direction_spread(sample) for sample in x) / n
    assert float(of_tokens.directions) == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert float(of_samples.directions) == pytest.approx(direction_spread(x), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_that_are_the_same_have_exactly_none(dtype):
    x = torch.full((48, 7), 0.1, dtype=dtype)
    found = spread_of(x, tokens=False)
    assert (float(found.samples), float(found.directions)) == (0.0, 0.0)


@pytest.mark.parametrize("away", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_small_spread_is_no_zero(away):
    x = torch.ones(2, 4, dtype=torch.float64)
    x[1, 0] += away
    found = spread_of(x, tokens=False)
    assert float(found.samples) == pytest.approx(away / math.sqrt(16), rel=2e-3)
    # the angle between the two is away · √3/4: all but the part along the row itself
    assert float(found.directions) == pytest.approx(away**2 * 3 / 32, rel=2e-3)


def test_zeros_are_the_same_for_every_sample_and_point_nowhere():
    found = spread_of(torch.zeros(5, 3), tokens=False)
    assert float(found.samples) == 0.0
    assert math.isnan(float(found.directions))


def test_rows_of_zeros_are_left_out_of_the_directions():
    x = torch.tensor(
        [[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 3.0], [0.0, 0.0], [0.0, 0.0]]]
    )
    assert float(spread_of(x, tokens=True).directions) == pytest.approx(1.0)  # the second sample has one row: no pair


def test_one_sample_is_nothing_to_compare():
    found = spread_of(torch.randn(1, 6), tokens=False)
    assert math.isnan(float(found.samples))
    assert math.isnan(float(found.directions))


def test_one_token_for_each_sample_is_compared_with_other_samples():
    x = torch.randn(4, 1, 6)
    assert float(spread_of(x, tokens=True).directions) == pytest.approx(direction_spread(x), rel=1e-9)


def test_what_is_not_finite_is_not_observed():
    x = torch.randn(4, 6)
    x[1, 2] = math.inf
    assert math.isnan(float(spread_of(x, tokens=False).samples))


def test_a_large_output_is_told_by_a_part_of_it():
    x = torch.randn(5 * MOST, 3 * MOST, 8) + 1.0
    found = spread_of(x, tokens=True)
    assert float(found.samples) == pytest.approx(math.sqrt(1 / 2), abs=0.02)
    assert float(found.directions) == pytest.approx(0.5, abs=0.08)
    wide = torch.randn(8, 3, MOST_FEATURES) + 1.0
    assert float(spread_of(wide, tokens=False).directions) == pytest.approx(0.5, abs=0.03)


def test_it_is_outside_of_autograd_and_changes_nothing():
    x = torch.randn(4, 6, requires_grad=True)
    before = x.detach().clone()
    assert not spread_of(x, tokens=False).samples.requires_grad
    assert torch.equal(x, before)


@given(n=st.integers(2, 9), tokens=st.integers(1, 6), seed=st.integers(0, 99), lay=st.sampled_from(["as is", "turned"]))
@settings(max_examples=40, deadline=None)
def test_without_rows_of_zeros_it_is_the_same(n, tokens, seed, lay):
    x = torch.randn(n, tokens, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x.transpose(0, 1) if lay == "turned" else x
    with_zeros = torch.cat([x, torch.zeros(1, *x.shape[1:], dtype=x.dtype)])  # a group that is left out
    one, other = _of_directions(x), _of_directions(with_zeros)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0, equal_nan=True)

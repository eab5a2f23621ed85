import pytest
import torch

from gradscope.symmetry import Symmetry, symmetric_fraction


@pytest.mark.parametrize("width", [2, 30, 4000])
def test_random_rows_are_not_equal(width):
    assert symmetric_fraction(torch.randn(500, width)) == 0


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(6, 5),
        torch.full((6, 5), 0.3),
        torch.randn(1, 5).expand(6, 5),
        torch.randn(1, 2, 3, 3).expand(6, 2, 3, 3),
    ],
)
def test_equal_rows_are_all_found(weight):
    assert symmetric_fraction(weight) == 1


def test_the_share_is_that_of_the_rows_that_equal_another():
    weight = torch.randn(10, 8)
    weight[7] = weight[2]
    weight[5] = weight[2] * (1 + 1e-7)
    assert symmetric_fraction(weight) == pytest.approx(0.3)
    assert symmetric_fraction(weight.bfloat16()) == pytest.approx(0.3)


def parted(start, way, apart, *, rows=40, width=30):
    """What is found of equal rows that have come a `way` together and stand `apart` now, in units of it."""
    together, alone = torch.randn(width), torch.randn(rows, width)
    weight = start * torch.ones(rows, width)
    symmetry = Symmetry()
    assert symmetry.fraction(7, weight) == 1
    return float(symmetry.fraction(7, weight + way * (together + apart * alone)))


@pytest.mark.parametrize("way", [1e-3, 1.0])
def test_rows_that_go_almost_the_same_way_are_still_copies(way):
    assert parted(0.1, way, 1e-3) == 1
    assert parted(0.1, way, 1.0) == 0


def test_rows_that_began_at_zero_have_to_be_equal():
    assert parted(0.0, 1.0, 0.0) == 1
    assert parted(0.0, 1.0, 1e-3) == 0


def test_rows_that_come_close_were_no_copies_before():
    weight = torch.randn(20, 10)
    symmetry = Symmetry()
    assert symmetry.fraction(0, weight) == 0
    assert symmetry.fraction(0, 0.01 * weight + torch.ones(10)) == 0


def test_a_weight_of_another_shape_is_seen_for_the_first_time():
    symmetry = Symmetry()
    assert symmetry.fraction(0, torch.ones(4, 3)) == 1
    assert symmetry.fraction(0, torch.randn(5, 3)) == 0

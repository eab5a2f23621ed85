"""Which units of a layer are copies of each other: the rows of its weight, compared at a record now and then.

Rows that begin equal and get the same gradient stay equal but for rounding. Random biases pull them apart, though the
step that all take together stays far larger than what tells them from each other; so later rows count as copies too if
they began so and differ by little beside the way they have come. Rows that part in earnest differ by as much as that.
"""

import torch
from torch import Tensor

_EQUAL = 1e-5  # of the mean norm of a row; rows that start equal drift apart only by rounding
_NEARLY = 0.1  # of the way from the start; a head that begins constant parts by 0.3 and more
_DIRECTIONS = 4  # random ones; two different rows agree along all of them by chance once in 10¹⁷
_SOON = 4  # the record at which a short run is looked at again


class Symmetry:
    """The rows of weights as they were first seen."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[Tensor, Tensor]] = {}

    def fraction(self, site: int, weight: Tensor) -> Tensor:
        """Share of the rows of `weight` (units; dimension 0) that are copies of another row, 0-dim on its device."""
        shadow, tolerance = _shadow(weight)
        first, _ = known = self._first.setdefault(site, (shadow, tolerance))
        if first.shape != shadow.shape or first.device != shadow.device:
            first, _ = known = self._first[site] = shadow, tolerance
        way = (shadow - first).square().mean().sqrt()
        began = known[1] / _EQUAL > 0  # rows of zeros take their whole size from the first steps
        return _share(shadow, tolerance, first, known[1], _NEARLY * way * began)


def symmetric_fraction(weight: Tensor) -> Tensor:
    """Share of the rows of `weight` that equal another row, 0-dim on its device.

    Rows are compared by their projections on four fixed random directions, so a layer of any width is sorted, not
    compared pair by pair.
    """
    return Symmetry().fraction(0, weight)


def soon(record: int) -> bool:
    """Whether equal rows are looked for at `record`, beside those at which all that is costly is measured."""
    return record == _SOON


def _shadow(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The projections of the rows, (row, direction), and by how much those of equal rows may differ."""
    rows = weight.detach().flatten(1)
    rows = rows.abs() if rows.is_complex() else rows
    rows = rows.float() if rows.dtype not in (torch.float32, torch.float64) else rows
    generator = torch.Generator("cpu").manual_seed(0)  # whatever the default device is
    directions = torch.randn(rows.shape[1], _DIRECTIONS, generator=generator, dtype=rows.dtype, device="cpu")
    return rows @ directions.to(rows.device), _EQUAL * torch.linalg.vector_norm(rows, dim=1).mean()


def _share(shadow: Tensor, tolerance: Tensor, first: Tensor, at_first: Tensor, nearly: Tensor) -> Tensor:
    order = shadow[:, 0].argsort()
    now, then = shadow[order].diff(dim=0).abs().amax(1), first[order].diff(dim=0).abs().amax(1)
    equal = (now <= tolerance) | ((now <= nearly) & (then <= at_first))
    edge = equal.new_zeros(1)
    return (torch.cat([equal, edge]) | torch.cat([edge, equal])).double().mean()

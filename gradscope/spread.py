"""How far the outputs for different samples, or tokens, lie from each other.

    sample_spread       √(Σ‖xᵢ − x̄‖² / Σ‖xᵢ‖²) over the samples i:  0 where all are the same, 1 where their mean is zero
    direction_spread    1 − mean cosine between two different rows:  0 where all point the same way, 1 at random

The rows are samples, or the tokens of one sample, and then it is the mean over the samples. With the unit vectors
uᵢ = xᵢ/‖xᵢ‖ of n rows, 1 − mean cosine is Σ‖uᵢ − ū‖² / (n − 1), which does not cancel where they are almost the same.
Before the mean is taken the first row is subtracted: what is the same in all rows then leaves exactly nothing.

All in float64, of at most `MOST` samples, tokens and so on, evenly spaced, so a large output costs no more than one of
moderate size. Nothing waits for the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 64  # samples, and as many tokens of each
MOST_FEATURES = 1 << 14  # of a sample; they are averaged over, so a part of them tells as much


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one output: numbers 0-dim in float64 on its device; NaN where fewer than two rows are there to compare."""

    samples: Tensor
    directions: Tensor


def spread_of(x: Tensor, *, tokens: bool) -> Spread:
    """Of an output (sample, …); with `tokens` of one (sample, token, feature), whose directions are those of tokens."""
    x = _every(x.detach(), 0, MOST)
    if tokens:
        x = _every(x, 1, MOST)
    rows = _every(x.flatten(1), 1, MOST_FEATURES).double()
    tokens = tokens and x.shape[1] > 1
    return Spread(_of_samples(rows), _of_directions(x.double() if tokens else rows[None]))


def _every(x: Tensor, axis: int, most: int) -> Tensor:
    """At most `most` positions along `axis`; an odd step goes through channels and pixels alike."""
    size = x.shape[axis]
    return x if size <= most else x[(slice(None),) * axis + (slice(None, None, -(-size // most) | 1),)]


def _of_samples(rows: Tensor) -> Tensor:
    if len(rows) < 2 or not rows.numel():
        return rows.new_full((), torch.nan)
    away = rows - rows[0]
    whole = torch.linalg.vector_norm(rows)
    spread = torch.linalg.vector_norm(away - away.mean(0)) / whole
    return torch.where(whole == 0, 0.0, spread)  # zeros are the same for every sample


def _of_directions(groups: Tensor) -> Tensor:
    """Of (group, row, feature): within each group, then the mean; rows of zeros have no direction."""
    length = torch.linalg.vector_norm(groups, dim=2, keepdim=True)
    known = length != 0
    if groups.device.type == "cpu" and groups.is_contiguous() and groups.shape[1] > 1 and known.all():
        return _all_known(groups / length, known.sum(1))  # half of the operations; elsewhere it would be a wait to know
    units = groups / torch.where(known, length, 1.0)
    count = known.sum(1)  # (group, 1)
    first = known.to(torch.int8).argmax(1, keepdim=True)
    away = torch.where(known, units - units.take_along_dim(first, 1), 0.0)
    away = torch.where(known, away - (away.sum(1) / count)[:, None], 0.0)
    spread = away.square().sum((1, 2)) / (count[:, 0] - 1)
    told = count[:, 0] > 1
    mean: Tensor = torch.where(told, spread, 0.0).sum() / told.sum()
    return mean


def _all_known(units: Tensor, count: Tensor) -> Tensor:
    """What `_of_directions` gives where no row is zero."""
    away = units - units[:, :1]
    away = away - (away.sum(1) / count)[:, None]
    spread = away.square().sum((1, 2)) / (count[:, 0] - 1)
    mean: Tensor = spread.sum() / (count[:, 0] > 1).sum()
    return mean

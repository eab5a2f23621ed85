"""Rows of statistics: adding up those of parts, scaling them. In numpy alone, as merging ranks needs it too."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.records import COLUMN, STATISTICS, Statistic

Rows: TypeAlias = NDArray[np.float32]  # (…, statistic)

_LARGEST = float(np.finfo(np.float32).max)
_SHARES = (  # of elements, or means over rows of equally many elements
    Statistic.ZERO_FRACTION,
    Statistic.SATURATED_FRACTION,
    Statistic.UNDERFLOW_FRACTION,
    Statistic.ATTENTION_ENTROPY,
    Statistic.SAMPLE_SPREAD,
    Statistic.DIRECTION_SPREAD,
)


def combine(rows: Rows, starts: Sequence[int] = (0,)) -> Rows:
    """The statistics of wholes from those of their parts: (part, statistic) → (whole, statistic).

    Each whole has the consecutive parts from its start to the next. Exact up to float32: counts add, Σx and Σ|x|²
    follow from mean, rms and the counts. Fractions of elements are weighted by `numel`; fractions of units are left
    to those who know the units.
    """
    part = rows.astype(np.float64)
    first = np.asarray(starts, dtype=np.intp)
    which = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(part))))
    numel, nonfinite = part[:, COLUMN["numel"]], part[:, COLUMN["nonfinite_count"]]
    n = numel - nonfinite
    whole = np.full((len(first), len(STATISTICS)), np.nan)
    whole[:, COLUMN["numel"]] = np.add.reduceat(numel, first)
    whole[:, COLUMN["nonfinite_count"]] = np.add.reduceat(nonfinite, first)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.add.reduceat(n, first)
        count = np.where(count > 0, count, np.nan)
        weight = n / count[which]  # of a part in its whole; rms and std add up in squares, by weight
        mean = _weighted(part[:, COLUMN["mean"]], weight, first)
        rms = _root_of_weighted(part[:, COLUMN["rms"]], weight, first)
        off = part[:, COLUMN["mean"]] - mean[which]
        spread = _root_of_weighted(part[:, COLUMN["std"]], weight, first)
        whole[:, COLUMN["std"]] = np.hypot(spread, _root_of_weighted(np.abs(off), weight, first))
        whole[:, COLUMN["mean"]], whole[:, COLUMN["rms"]] = mean, rms
        whole[:, COLUMN["l2_norm"]] = rms * np.sqrt(count)
        whole[:, COLUMN["min"]] = np.fmin.reduceat(part[:, COLUMN["min"]], first)
        whole[:, COLUMN["max"]] = np.fmax.reduceat(part[:, COLUMN["max"]], first)
        whole[:, COLUMN["abs_max"]] = np.fmax.reduceat(part[:, COLUMN["abs_max"]], first)
        whole[:, COLUMN["max_logit"]] = np.fmax.reduceat(part[:, COLUMN["max_logit"]], first)
        for stat in _SHARES:
            fractions = part[:, COLUMN[stat]]
            known = np.where(np.isnan(fractions), 0.0, numel)
            total = np.add.reduceat(known, first)
            whole[:, COLUMN[stat]] = np.add.reduceat(np.nan_to_num(fractions) * known, first) / total
    return as_float32(whole)


def _weighted(values: NDArray[np.float64], weight: NDArray[np.float64], first: NDArray[np.intp]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.add.reduceat(np.where(weight > 0, values * weight, 0.0), first)
    return np.where(np.isnan(np.add.reduceat(weight, first)), np.nan, result)


def _root_of_weighted(
    values: NDArray[np.float64], weight: NDArray[np.float64], first: NDArray[np.intp]
) -> NDArray[np.float64]:
    # float32 numbers squared in float64 stay in range
    return np.sqrt(_weighted(values**2, weight, first))


def scaled(rows: Rows, factor: float) -> Rows:
    """The statistics of factor · x from those of x; `factor` is positive. Shape as `rows`."""
    result = rows.astype(np.float64)
    for stat in ("mean", "std", "rms", "l2_norm", "abs_max", "min", "max"):
        result[..., COLUMN[stat]] *= factor
    return as_float32(result)


def scalar_row(value: float) -> Rows:
    """The statistics of a single number, shape (statistic,)."""
    row = np.full(len(STATISTICS), np.nan)
    row[COLUMN["numel"]], row[COLUMN["nonfinite_count"]] = 1, not math.isfinite(value)
    row[COLUMN["zero_fraction"]] = value == 0
    if math.isfinite(value):
        row[[COLUMN[s] for s in ("mean", "min", "max")]] = value
        row[[COLUMN[s] for s in ("rms", "l2_norm", "abs_max")]] = abs(value)
        row[COLUMN["std"]] = 0
    return as_float32(row)


def as_float32(values: NDArray[np.float64]) -> Rows:
    """As float32; a finite value past its range becomes its largest number, so that only Inf reads as Inf."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)

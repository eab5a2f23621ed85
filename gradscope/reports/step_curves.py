"""Loss and gradient norm of runs at each step: the lines that every figure over the steps draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.records import Quantity, Statistic
from gradscope.trace import Doubles, Ints, Trace

WINDOWS = 25  # of a running median, over all steps


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Losses:
    """The loss of one or more runs, at the steps of the first.

    Attributes:
        steps: Shape (step,), as the others.
        middle: Median over the runs; NaN where none has a finite loss.
        low: The smallest of the runs.
        high: The largest.
        broken: Whether some run's loss was NaN or Inf.
    """

    steps: Ints
    middle: Doubles
    low: Doubles
    high: Doubles
    broken: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.bool_]:
        """At which steps there is a number."""
        return np.asarray(~np.isnan(self.middle))


def losses_of(runs: Sequence[Trace]) -> Losses:
    """Over the runs of one variant; those that have fewer or more steps than the first are left out."""
    runs = [run for run in runs if len(run.steps) == len(runs[0].steps)]
    losses: Doubles = np.stack([run.per_step["loss"] for run in runs])
    finite = np.where(np.isfinite(losses), losses, np.nan)
    known = np.asarray(~np.isnan(finite).all(axis=0))
    middle, low, high = (np.full(losses.shape[1], np.nan) for _ in range(3))
    for into, what in ((middle, np.nanmedian), (low, np.nanmin), (high, np.nanmax)):
        into[known] = what(finite[:, known], axis=0)
    broken = np.any([broken_steps(run, Quantity.LOSS) for run in runs], axis=0) | np.isinf(losses).any(axis=0)
    return Losses(steps=runs[0].steps, middle=middle, low=low, high=high, broken=np.asarray(broken))


def spreads_out(values: Doubles) -> bool:
    """Whether some are so large that on a linear axis the others would lie on it."""
    known = values[np.isfinite(values)]
    return bool(len(known) and known.min() > 0 and known.max() > 100 * np.median(known))


def norms_of(trace: Trace) -> tuple[Doubles | None, Doubles | None]:
    """The norm of all gradients as backward left it, and as the optimizer read it; None where it was not recorded.

    The second is None too where it does not differ from the first.
    """
    raw, applied = _norm(trace, "raw"), _norm(trace, "applied")
    if raw is not None and applied is not None and np.allclose(raw, applied, rtol=1e-3, equal_nan=True):
        applied = None
    return raw, applied


def running_median(values: Doubles) -> Doubles | None:
    """The median of the steps around each, fewer at the ends; NaN stays where it was. None for few steps."""
    if (window := len(values) // WINDOWS) <= 1:
        return None
    half = window // 2
    known = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmedian(k) if np.isfinite(v) else np.nan for v, k in zip(values, known, strict=True)])


def broken_steps(trace: Trace, quantity: Quantity) -> NDArray[np.bool_]:
    """In which steps something of `quantity` was NaN or Inf. Shape (step,)."""
    return np.asarray((trace.statistics[Statistic.NONFINITE_COUNT][:, trace.columns(quantity)] > 0).any(axis=1))


def _norm(trace: Trace, name: str) -> Doubles | None:
    if not trace.columns(Quantity.TOTAL_NORM, "", name):
        return None
    return trace.series("", Quantity.TOTAL_NORM, Statistic.L2_NORM, name=name).astype(np.float64)

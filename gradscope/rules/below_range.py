"""Which numbers of float16 are so small that most of them are lost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.records import GRADIENT_QUANTITIES, Quantity, Statistic
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.sixteen_bits import SMALLEST, is_half
from gradscope.trace import Doubles, Trace

_ABOUT_TO_GO = 64.0  # spacings: a layer that passes on a hundredth of it passes on nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A site whose numbers are below the range.

    Attributes:
        column: The site.
        spacings: rms of what is not zero, over the smallest number above zero; median of the steps that show it, 0
            where nothing is left.
        gone: Share of the steps that show it in which every element is zero.
        lasting: Since when, and how long.
    """

    column: int
    spacings: float
    gone: float
    lasting: Persistence


def still_learning(trace: Trace) -> NDArray[np.bool_]:
    """The steps in which there was something left to learn: the loss was not yet a twentieth of the first one.

    Where nobody has told the loss, it is the first quarter of them, three at least.
    """
    loss = trace.per_step["loss"]
    finite = np.flatnonzero(np.isfinite(loss))
    if not len(finite) or not loss[finite[0]] > 0:
        return np.arange(len(loss)) < max(3, len(loss) // 4)
    return np.asarray(~(loss < 0.05 * loss[finite[0]]))


def lost_below(trace: Trace, quantity: Quantity, least: float) -> list[Lost]:
    """The sites of `quantity` in float16 that have less than `least` spacings, in the order in which they come to be.

    What is all zero counts where it is made from numbers that are about to go, or where all that a gradient comes to in
    other steps is below the range: else it has another reason.
    """
    columns = [c for c in trace.columns(quantity) if is_half(trace, trace.sites[c].module)]
    if quantity in GRADIENT_QUANTITIES:
        columns.reverse()
    judged, found = still_learning(trace), []
    source = _from_loss(trace, columns[0]) if columns and quantity in GRADIENT_QUANTITIES else None
    for column in columns:
        spacings = _spacings(trace, column)
        zero = spacings == 0
        low = (spacings < least) & ~zero
        if source is not None:
            low |= zero & (source < _ABOUT_TO_GO)
        if quantity in GRADIENT_QUANTITIES and low.any() and not (spacings >= least).any():
            low |= zero  # whatever came of it in other steps was no more than the last bit
        lasting = persistence(low, judged & ~np.isnan(spacings))
        if lasting is not None:
            rows = lasting.rows
            found.append(
                Lost(
                    column=column,
                    spacings=float(np.median(spacings[rows])),
                    gone=float(zero[rows].mean()),
                    lasting=lasting,
                )
            )
        # what is nothing itself is made from what made it
        source = spacings if source is None else np.where(zero | np.isnan(spacings), source, spacings)
    return found


def _spacings(trace: Trace, column: int) -> Doubles:
    """Rms of what is not zero, in units of the smallest number above zero; of gradients with the loss scale in it."""
    rms, zeros, size, broken = (
        trace.statistics[s][:, column].astype(np.float64)
        for s in (Statistic.RMS, Statistic.ZERO_FRACTION, Statistic.NUMEL, Statistic.NONFINITE_COUNT)
    )
    graded = trace.sites[column].quantity in GRADIENT_QUANTITIES
    scale = np.nan_to_num(trace.per_step["loss_scale"], nan=1.0) if graded else np.ones(len(rms))
    left = np.clip(1 - np.nan_to_num(zeros), 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(left > 0, rms / np.sqrt(left), 0.0) * scale / SMALLEST
    return np.where((size > 0) & ~(broken > 0) & ~np.isnan(rms), found, np.nan)


def _from_loss(trace: Trace, last: int) -> Doubles:
    """What the loss gives to each element of the last output, roughly: the loss itself, by their number."""
    loss = np.abs(trace.per_step["loss"])
    scale = np.nan_to_num(trace.per_step["loss_scale"], nan=1.0)
    size = trace.statistics[Statistic.NUMEL][:, last].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where((loss > 0) & (size > 0), loss * scale / size / SMALLEST, np.inf)
    return np.asarray(found)

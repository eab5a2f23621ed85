"""Geometric gain over depth: where along the layers a quantity falls or rises by a steady factor.

Everything is in decades (log₁₀), so multiplying the loss by anything changes nothing. The end-to-end change is over the
steepest stretch of layers; the gain per layer is the smaller of the mean and the median change within it, so that one
odd layer is no slope, and what goes back and forth is none either. For the same reason the layer that changes most
counts for no more than the second.

Formula:
    rise = max over i < j of v_j − v_i;  per layer = min(mean, median) of v_{k+1} − v_k for i ≤ k < j;
    gain = 10^(per layer);  steady if rise ≥ ½ Σ|v_{k+1} − v_k|
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.trace import Doubles, Ints

Bools: TypeAlias = NDArray[np.bool_]

# BatchNorm with ReLU multiplies the gradient by √(π/(π−1)) = 1.21 per layer and is healthy (Yang et al. 2019).
# Growth: twice the He scale multiplies it by 2 and is not healthy; 1.6 is the geometric mean of the two.
# Decay: more than that natural 1.21 downwards; whether it matters, the decades it adds up to decide.
GROWTH = 1.6
DECAY = 1.25
SLOW_GROWTH = 1.1  # BatchNorm's 1.21 is healthy in itself, but fifty plain layers of it make four decades
REMAINS = 2 / 3  # of what a run began with: what training has brought down by less is still there
STEADY = 0.5  # share of all ups and downs that is left as net change
BEGINNING = 3  # recorded steps
LEAST_LAYERS = 4  # a slope needs three gaps, so that the median is no single one of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Rises:
    """The steepest rise along the layers, for each step.

    Attributes:
        decades: From its foot to its top; NaN where fewer than `LEAST_LAYERS` layers were observed. Shape (step,).
        shared: The same, the largest of its changes taken as no larger than the second; 0 where it is no slope.
        per_layer: Change from layer to layer within it, in decades; 0 where it is no slope.
        foot: Index of the layer where it begins.
        top: Index of the layer where it ends.
    """

    decades: Doubles
    shared: Doubles
    per_layer: Doubles
    foot: Ints
    top: Ints

    @property
    def known(self) -> Bools:
        """In which steps there was enough to judge."""
        return ~np.isnan(self.decades)


def steepest_rises(values: Doubles) -> Rises:
    """The steepest rise of each row of `values` (step, layer), in decades; NaN are left out."""
    steps = len(values)
    decades, shared, per_layer = (np.full(steps, np.nan) for _ in range(3))
    foot, top = np.zeros(steps, np.int64), np.zeros(steps, np.int64)
    missing = np.isnan(values)
    count = (~missing).sum(axis=1)
    rows = np.flatnonzero(count >= LEAST_LAYERS)
    if len(rows):
        layers = np.argsort(missing[rows], axis=1, kind="stable")  # what was observed, in its order, then the rest
        seen, each = np.take_along_axis(values[rows], layers, axis=1), np.arange(len(rows))
        lowest = np.minimum.accumulate(seen, axis=1)
        end = np.argmax(np.where(np.isnan(seen), -1.0, seen - lowest), axis=1)
        start = np.argmax(seen == lowest[each, end][:, None], axis=1)
        decades[rows] = seen[each, end] - seen[each, start]
        foot[rows], top[rows] = layers[each, start], layers[each, end]
        per_layer[rows], shared[rows] = _slopes(seen, start, end, seen[each, count[rows] - 1])
    return Rises(decades=decades, shared=shared, per_layer=per_layer, foot=foot, top=top)


def _slopes(seen: Doubles, start: Ints, end: Ints, final: Doubles) -> tuple[Doubles, Doubles]:
    """Decades per layer between `start` and `end`: the smaller of the mean and the median change; 0 if it is no slope.

    And the rise itself without what its largest change exceeds the second by, likewise.

    Layers inside the branches of a residual net lie off its stream, so their values go up and down along the order of
    execution, and the gradient is back at the stream's level at the ends of the net, the last of which is `final`.
    That is no slope. Each of shape (step,).
    """
    slopes, shared = np.zeros(len(seen)), np.zeros(len(seen))
    for length in np.unique(end - start):
        if length < LEAST_LAYERS - 1:
            continue
        rows = np.flatnonzero(end - start == length)
        part = np.take_along_axis(seen[rows], start[rows, None] + np.arange(length + 1), axis=1)
        changes = np.diff(part, axis=1)
        rise, middle = part[:, -1] - part[:, 0], (part[:, -1] + part[:, 0]) / 2
        back_and_forth = rise < STEADY * np.abs(changes).sum(axis=1)
        heals = (seen[rows, 0] > middle) | (final[rows] < middle)
        typical = np.minimum(changes.mean(axis=1), np.median(changes, axis=1))
        second, largest = np.sort(changes, axis=1)[:, -2:].T
        slopes[rows] = np.where(back_and_forth | heals, 0.0, typical)
        shared[rows] = np.where(back_and_forth | heals, 0.0, rise - (largest - second))
    return slopes, shared


def steady(rises: Rises, *, decades: float, gain: float) -> Bools:
    """In which steps the rise is at least `decades` in all and a factor of at least `gain` per layer."""
    enough: Bools = rises.known & (rises.shared >= decades)
    return np.asarray(enough & (rises.per_layer >= np.log10(gain)))


def steady_growth(rises: Rises, *, from_start: float, grown: float, gain: float = GROWTH) -> Bools:
    """As `steady`, with a lower bar for a rise that the run began with than for one that training has made.

    A network that learns makes its layers larger than it found them; nothing but the initialisation makes it start so.
    Where it starts with as much as training may make, a smaller gain per layer adds up to it: of deep nets.
    """
    beginning = np.flatnonzero(rises.known)[:BEGINNING]
    found = np.zeros(len(rises.decades), dtype=bool)
    for decades, least in ((from_start, gain), (grown, SLOW_GROWTH)):
        if steady(rises, decades=decades, gain=least)[beginning].any():
            found |= steady(rises, decades=decades * REMAINS, gain=least)
    return found | steady(rises, decades=grown, gain=gain)

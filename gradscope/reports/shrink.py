"""A grid with fewer cells in which a single sick step stays to be seen: a cell shows its extreme, never its mean.

Of what is spaced over decades that is what lies farthest from the usual; of a share, such as that of dead units, the
largest, as there zero is the healthy one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.trace import Doubles, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Numbers of a quantity at places over steps, and what is known of each.

    Attributes:
        values: ≥ 0; NaN where none is known. Shape (place, step).
        nonfinite: Whether the quantity had NaN or Inf. Shape (place, step).
        seen: Whether it was observed. Shape (place, step).
    """

    values: Doubles
    nonfinite: NDArray[np.bool_]
    seen: NDArray[np.bool_]

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Where there is a number that has a logarithm. Shape (place, step)."""
        return self.seen & ~self.nonfinite & np.isfinite(self.values) & (self.values > 0)

    def logs(self) -> Doubles:
        """log₁₀ of the numbers; NaN where there is none, and for zero. Shape (place, step)."""
        positive = self.positive
        found: Doubles = np.log10(self.values, where=positive, out=np.full(self.values.shape, np.nan))
        return found


def starts_of(steps: int, most: int) -> Ints:
    """Where each of at most `most` blocks begins: they are of even length but for one step. Shape (block,)."""
    blocks = min(steps, most)
    return np.arange(blocks, dtype=np.int64) * steps // blocks if blocks else np.zeros(0, dtype=np.int64)


def shrunk(cells: Cells, starts: Ints, *, shares: bool = False) -> Cells:
    """One cell for each block of steps that begins at `starts`: what lies farthest from the place's median.

    Any NaN or Inf makes the cell non-finite, and a zero is farther than every number. The distance is that of the
    logarithms, so a fall by three decades weighs as much as a rise. Of `shares` it is the largest instead.
    """
    if not len(starts) or len(starts) == cells.values.shape[1]:
        return cells
    distance = cells.values.copy() if shares else _distances(cells)
    distance[np.isnan(distance)] = -1.0
    farthest = _argmax_of_blocks(distance, starts)
    rows = np.arange(len(distance))[:, None]
    return Cells(
        values=cells.values[rows, farthest],
        nonfinite=np.logical_or.reduceat(cells.nonfinite, starts, axis=1),
        seen=np.logical_or.reduceat(cells.seen, starts, axis=1),
    )


def shrunk_both_ways(cells: Cells, steps: Ints, places: Ints) -> Cells:
    """The same for blocks of steps, and then for blocks of places that begin at `places`."""
    return _turned(shrunk(_turned(shrunk(cells, steps)), places))


def _distances(cells: Cells) -> Doubles:
    """Of each number from its row's median, in decades; infinite for a zero, NaN where there is no number."""
    logs = cells.logs()
    distance: Doubles = np.abs(logs - _medians(logs)[:, None])
    distance[cells.seen & (cells.values == 0)] = np.inf
    return distance


def _turned(cells: Cells) -> Cells:
    return Cells(values=cells.values.T, nonfinite=cells.nonfinite.T, seen=cells.seen.T)


def _medians(logs: Doubles) -> Doubles:
    """Of each row, without NaN; 0 for a row that has no number."""
    known = ~np.isnan(logs).all(axis=1)
    medians = np.zeros(len(logs))
    medians[known] = np.nanmedian(logs[known], axis=1)
    return medians


def _argmax_of_blocks(distance: Doubles, starts: Ints) -> Ints:
    """The first step of each block at which its largest distance is. Shape (place, block)."""
    most = np.maximum.reduceat(distance, starts, axis=1)
    lengths = np.diff(np.append(starts, distance.shape[1]))
    is_most = distance == np.repeat(most, lengths, axis=1)
    steps = np.where(is_most, np.arange(distance.shape[1]), distance.shape[1])
    return np.minimum.reduceat(steps, starts, axis=1)

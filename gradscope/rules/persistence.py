"""Whether a fault lasts: one bad step that heals is none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LASTING = 0.2  # share of the recorded steps; a fifth of a run spent on a fault is a cost, even if it heals
_LEAST = 3  # steps, where there are that many
_END = 0.25  # share of the steps that counts as how the run ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """A fault that lasts.

    Attributes:
        first: Index (into `Trace.steps`) of the first step that shows it.
        last: Index of the last one.
        share: Of the steps that could be judged.
        standing: Whether it is still there at the end of the run.
        rows: Indices of all steps that show it.
    """

    first: int
    last: int
    share: float
    standing: bool
    rows: NDArray[np.int64]


def persistence(sick: NDArray[np.bool_], known: NDArray[np.bool_]) -> Persistence | None:
    """How long `sick` lasts among the steps that are `known`; None if it does not.

    It lasts if it makes up a fifth of the known steps, or most of their last quarter, and at least three of them.
    """
    judged = np.flatnonzero(known)
    rows = np.flatnonzero(sick & known)
    if not len(rows) or len(rows) < min(_LEAST, len(judged)):
        return None
    tail = judged[-max(_LEAST, int(len(judged) * _END)) :]
    standing = bool(sick[tail].mean() > 0.5)
    share = len(rows) / len(judged)
    if not standing and share < _LASTING:
        return None
    return Persistence(first=int(rows[0]), last=int(rows[-1]), share=share, standing=standing, rows=rows)


def standing(sick: NDArray[np.bool_], known: NDArray[np.bool_]) -> Persistence | None:
    """Of what is measured rarely: from when on it is `sick` in all that is `known`, to the end; None if it is not.

    Two measurements are the least.
    """
    judged = np.flatnonzero(known)
    healthy = np.flatnonzero(known & ~sick)
    rows = judged[judged > healthy[-1]] if len(healthy) else judged
    if len(rows) < 2:
        return None
    share = len(rows) / len(judged)
    return Persistence(first=int(rows[0]), last=int(rows[-1]), share=share, standing=True, rows=rows)

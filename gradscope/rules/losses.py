"""How the loss of a run begins and ends."""

from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.records import Quantity, Site
from gradscope.trace import Doubles, Ints, Trace

_FIRST = 3  # losses that tell where a run begins; later ones may have learned
_TAIL = 0.2  # share of the run that tells where it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The recorded losses.

    Attributes:
        values: All that are finite. Shape (loss,).
        rows: Their indices into `Trace.steps`.
        first: Median of the first three.
        last: Median of the last fifth.
        spread: Largest minus smallest of the first three.
        tail: How many the last fifth has.
    """

    values: Doubles
    rows: Ints
    first: float
    last: float
    spread: float
    tail: int


def ends(trace: Trace, *, least: int) -> Ends:
    """Where the loss begins and where it ends.

    Raises:
        NotJudged: There are fewer than `least` finite losses.
    """
    loss = trace.per_step["loss"]
    rows = np.flatnonzero(np.isfinite(loss))
    if len(rows) < least:
        raise NotJudged(f"needs the loss of {least} steps, the trace has {len(rows)}")
    values = np.asarray(loss[rows], dtype=np.float64)
    tail = max(_FIRST, int(len(values) * _TAIL))
    return Ends(
        values=values,
        rows=rows,
        first=float(np.median(values[:_FIRST])),
        last=float(np.median(values[-tail:])),
        spread=float(np.ptp(values[:_FIRST])),
        tail=tail,
    )


def has_fallen(trace: Trace, *, to: float) -> bool:
    """Whether the loss ends at less than `to` times where it began; False where too little of it was recorded."""
    try:
        run = ends(trace, least=2 * _FIRST)
    except NotJudged:
        return False
    return run.last < to * run.first


def loss_site(trace: Trace) -> tuple[Site, ...]:
    """The site of the loss, if the trace has one."""
    return tuple(trace.sites[column] for column in trace.columns(Quantity.LOSS))

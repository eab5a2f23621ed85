"""Which rank of a distributed run was off, in a line or none: what one rank alone does, a mean hides."""

import numpy as np

from gradscope.ranks import rank_of
from gradscope.records import Quantity, Statistic
from gradscope.trace import RankTable, Trace

_OWN = (Quantity.INPUT, Quantity.OUTPUT, Quantity.OUTPUT_GRAD, Quantity.LOSS)  # what a rank computes from its own data
_GROSS = 10.0  # times the others
_LAST = 1 << 30  # the loss has the depth −1, and comes behind all others


def about_ranks(trace: Trace) -> str | None:
    """One sentence: of which rank a trace is, or which of those that were merged differs from the others."""
    place = rank_of(trace)
    if place is not None:
        rank, world_size = place
        return f"rank {rank} of {world_size} only; for all: `gradscope merge run.rank*.h5 -o run.h5`"
    if trace.ranks is None:
        return None
    columns = [i for quantity in _OWN for i in trace.columns(quantity)]
    return _not_finite(trace, trace.ranks, columns) or _out_of_scale(trace, trace.ranks, columns)


def _not_finite(trace: Trace, ranks: RankTable, columns: list[int]) -> str | None:
    """The ranks that have non-finite values when the others have none yet."""
    counts = ranks.statistics[Statistic.NONFINITE_COUNT][:, columns] > 0  # NaN is not
    steps = np.flatnonzero(counts.any(axis=(1, 2)))
    if not len(steps):
        return None
    first = counts[steps[0]]
    which = np.flatnonzero(first.any(axis=0))
    if len(which) == len(ranks.ranks):
        return None
    ran = [columns[i] for i in np.flatnonzero(first.any(axis=1))]
    site = trace.sites[min(ran, key=lambda column: trace.sites[column].depth % _LAST)]
    names = ", ".join(str(ranks.ranks[i]) for i in which)
    return f"rank {names} alone has non-finite values at first: {site} in step {trace.steps[steps[0]]}"


def _out_of_scale(trace: Trace, ranks: RankTable, columns: list[int]) -> str | None:
    """The rank whose values are by far larger, or smaller, than those of all others."""
    rms = ranks.statistics[Statistic.RMS][:, columns].astype(np.float64)
    known = np.asarray(~np.isnan(rms).any(axis=2))
    worst, said = _GROSS, None
    for i, column in enumerate(columns):
        sizes = np.median(rms[known[:, i], i], axis=0) if known[:, i].any() else np.zeros(1)
        if sizes.min() <= 0:
            continue
        for rank, size in enumerate(sizes):
            others = np.delete(sizes, rank)
            times = max(size / others.max(), others.min() / size)
            if times > worst and (len(others) > 1 or size > others[0]):
                worst = times
                more = "as large as" if size > others.max() else "smaller than"
                said = (
                    f"rank {ranks.ranks[rank]} is off: {trace.sites[column]} is {times:.3g} times {more} on the"
                    f" other{'s' * (len(others) > 1)} (rms, median over the steps)"
                )
    return said

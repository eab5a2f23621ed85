"""Several ranks' traces → the trace of the whole, as one process would have recorded it on the whole batch.

Every rank trains on its own part of the batch, and its loss is the mean over that part, so with n ranks:

    outputs, inputs, states     the elements of all ranks: their moments add up
    ∂L/∂y, ∂L/∂x, ∂L/∂h         the same, divided by n: the loss of the whole is the mean of the ranks' losses
    parameters, replicated      the same on every rank (DDP): those of one; where they are not, an event says so
    parameters, sharded         each rank has a part (FSDP2): their moments add up
    dead fractions              a unit is silent where it is silent on every rank, so the counting is done again
    loss                        the mean
    total norms                 of the merged parameters
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gradscope.findings import Json
from gradscope.idle import IdleUnits
from gradscope.ranks import common_steps, events_of, in_order, key_of, meta_of, sites_of
from gradscope.records import COLUMN, PARAMETER_QUANTITIES, STATISTICS, Event, Key, Quantity, Site, Statistic
from gradscope.rows import Rows, combine, scalar_row, scaled
from gradscope.total_norm import TotalNorms
from gradscope.trace import BY_RANK, Floats, Ints, RankTable, TimeTable, Trace, by_statistic

_OF_THE_LOSS = frozenset({Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD, Quantity.STATE_GRAD})
_ALIKE = (  # of what is replicated
    Statistic.SYMMETRIC_FRACTION,
    Statistic.SPECTRAL_RADIUS,
    Statistic.SPECTRAL_NORM,
    Statistic.CARRIED_FRACTION,
)
_ROUNDING = 1e-4  # relative; replicas that differ by more were not kept equal
_BLOCK = 64  # steps that are merged at a time


@dataclass(frozen=True, slots=True)
class _Rank:
    """The trace of one rank, and where what it holds lies in the whole.

    Attributes:
        rows: Index of each of the whole's steps among its own.
        columns: Index in the whole of each of its sites.
    """

    number: int
    trace: Trace
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


def merge(traces: Mapping[str, Trace]) -> Trace:
    """The trace of the whole, from those of all ranks by the names of their files.

    Raises:
        UsageError: One is not of a rank, or they do not belong together, or not all are there.
    """
    ordered = in_order(traces)
    steps, left_out = common_steps(ordered)
    sites = sites_of([trace.sites for trace in ordered])
    index = {key_of(site): i for i, site in enumerate(sites)}
    ranks = [
        _Rank(
            number,
            trace,
            np.searchsorted(trace.steps, steps),
            np.array([index[key_of(site)] for site in trace.sites], dtype=np.intp),
        )
        for number, trace in enumerate(ordered)
    ]
    first = ordered[0]
    spread = {s: np.full((len(steps), len(sites), len(ranks)), np.nan, np.float32) for s in BY_RANK}
    values = np.full((len(steps), len(sites), len(STATISTICS)), np.nan, dtype=np.float32)
    for start in range(0, len(steps), _BLOCK):
        block = slice(start, start + _BLOCK)
        parts = np.stack([_values(rank, rank.rows[block], len(sites)) for rank in ranks], axis=2)
        for statistic in BY_RANK:
            spread[statistic][block] = parts[..., COLUMN[statistic]]
        values[block] = _merged(parts, sites, first.meta)
    values[:, :, COLUMN["dead_fraction"]] = _dead_fractions(ranks, len(steps), len(sites))
    losses = _losses(ranks, values, index)
    totals = TotalNorms(index)
    for of_step in values:
        totals.add_to(of_step)
    return Trace(
        meta=meta_of(ordered),
        sites=sites,
        steps=steps,
        per_step={name: v[ranks[0].rows] for name, v in first.per_step.items()} | {"loss": losses},
        statistics={s.value: values[:, :, i] for i, s in enumerate(STATISTICS)},
        times=_times(ranks, sites, len(steps)),
        events=(*events_of(ordered), *left_out, *_differing(spread, steps, sites, first.meta)),
        ranks=RankTable(ranks=tuple(range(len(ranks))), statistics={s.value: v for s, v in spread.items()}),
    )


# ---------------------------------------------------------------- what is merged


def _values(rank: _Rank, rows: NDArray[np.intp], sites: int) -> Rows:
    """What a rank has measured in some of the whole's steps, (step, site, statistic)."""
    values = np.full((len(rows), sites, len(STATISTICS)), np.nan, dtype=np.float32)
    for i, statistic in enumerate(STATISTICS):
        values[:, rank.columns, i] = rank.trace.statistics[statistic.value][rows]
    return values


def _merged(parts: Rows, sites: Sequence[Site], meta: Mapping[str, Json]) -> Rows:
    """(step, site, rank, statistic) → (step, site, statistic)."""
    seen = ~np.isnan(parts[..., COLUMN["numel"]])
    counts = seen.sum(axis=2)
    whole = np.full((*counts.shape, len(STATISTICS)), np.nan, dtype=np.float32)
    starts = np.concatenate([[0], np.cumsum(counts[counts > 0])[:-1]])
    if not seen.any():
        return whole
    whole[counts > 0] = combine(parts[seen], starts.tolist())
    for statistic in _ALIKE:
        values = parts[..., COLUMN[statistic]]
        whole[..., COLUMN[statistic]] = np.fmax.reduce(values, axis=2)
    _average_entropies(whole, parts, sites)
    gradients = [i for i, site in enumerate(sites) if site.quantity in _OF_THE_LOSS]
    whole[:, gradients] = scaled(whole[:, gradients], 1 / parts.shape[2])
    for i, site in enumerate(sites):
        if site.quantity in PARAMETER_QUANTITIES:
            whole[:, i] = _parameter(whole[:, i], parts[:, i], _size(site, meta))
    return whole


def _average_entropies(whole: Rows, parts: Rows, sites: Sequence[Site]) -> None:
    """Means over queries, of which each rank has as many as its module has returned rows; a head has no elements."""
    entropies, numel = parts[..., COLUMN["attention_entropy"]], np.nan_to_num(parts[..., COLUMN["numel"]])
    for i in np.flatnonzero(~np.isnan(entropies).all(axis=(0, 2))).tolist():
        same = [j for j, s in enumerate(sites) if s.module == sites[i].module and s.quantity is Quantity.OUTPUT]
        weight = np.where(np.isnan(entropies[:, i]), 0.0, numel[:, same].max(axis=1).astype(np.float64))
        with np.errstate(invalid="ignore"):
            mean = (np.nan_to_num(entropies[:, i]) * weight).sum(axis=1) / weight.sum(axis=1)
        whole[:, i, COLUMN["attention_entropy"]] = mean


def _size(site: Site, meta: Mapping[str, Json]) -> float:
    """The number of elements of a parameter; NaN if unknown."""
    shapes = meta.get("shapes")
    shape = shapes.get(f"{site.module}.{site.name}".lstrip(".")) if isinstance(shapes, dict) else None
    return float(math.prod(cast("list[int]", shape))) if isinstance(shape, list) else math.nan


def _parameter(whole: Rows, parts: Rows, size: float) -> Rows:
    """A parameter in each step: the first replica, or all shards; `whole` is of all ranks' elements."""
    numel = parts[..., COLUMN["numel"]]
    seen = ~np.isnan(numel)
    replicated = (~seen | (numel == np.float32(size))).all(axis=1)
    first = parts[np.arange(len(parts)), seen.argmax(axis=1)]
    # shards that several ranks hold, as under hybrid sharding, are counted so often
    copies = np.maximum(np.round(np.nan_to_num(whole[:, COLUMN["numel"]] / size, nan=1.0)), 1.0)
    for stat, factor in (("numel", copies), ("nonfinite_count", copies), ("l2_norm", np.sqrt(copies))):
        whole[:, COLUMN[stat]] /= factor
    return np.where((replicated & seen.any(axis=1))[:, None], first, whole)


def _dead_fractions(ranks: Sequence[_Rank], steps: int, sites: int) -> Floats:
    """(step, site): counted again from the units that are silent on every rank that has seen them."""
    result = np.full((steps, sites), np.nan, dtype=np.float32)
    silent: list[dict[int, tuple[int, NDArray[np.uint8]]]] = [{} for _ in range(steps)]  # a site's units, their bits
    odd: set[tuple[int, int]] = set()  # of another number of units on each rank: they are not the same units
    for rank in ranks:
        units = rank.trace.units
        ends = np.cumsum(-(-units.units.astype(np.int64) // 8))
        step_of = {int(row): step for step, row in enumerate(rank.rows)}
        for row, column, count, end in zip(units.step, units.site, units.units, ends, strict=True):
            step, site = step_of.get(int(row)), int(rank.columns[column])
            if step is None:
                continue
            bits = units.bits[end - -(-int(count) // 8) : end]
            known_count, known = silent[step].get(site, (count, bits))
            if known_count != count:
                odd.add((step, site))
            else:
                silent[step][site] = int(count), known & bits
    idle = IdleUnits()
    for step, found in enumerate(silent):
        layout = [(site, count) for site, (count, _) in found.items() if (step, site) not in odd]
        if layout:
            unpacked = [np.unpackbits(found[site][1], count=count) for site, count in layout]
            dead = idle.count(layout, np.concatenate(unpacked).astype(bool))
            result[step, list(dead)] = list(dead.values())
    return result


def _losses(ranks: Sequence[_Rank], values: Rows, index: Mapping[Key, int]) -> NDArray[np.float64]:
    """The mean loss of the ranks that know theirs, (step,); its site's statistics are set."""
    column = index.get(("", Quantity.LOSS, ""))
    losses = np.stack([rank.trace.per_step["loss"][rank.rows] for rank in ranks])
    if column is None:
        return cast("NDArray[np.float64]", losses.mean(axis=0))
    seen = np.stack([_observed(rank, column) for rank in ranks])
    counts = seen.sum(axis=0)
    means = np.where(counts > 0, np.where(seen, losses, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)
    for step in np.flatnonzero(counts):
        values[step, column] = scalar_row(float(means[step]))
    return means


def _observed(rank: _Rank, column: int) -> NDArray[np.bool_]:
    """In which of the whole's steps a rank has seen the site that is `column` of the whole."""
    (own,) = np.nonzero(rank.columns == column)
    return rank.trace.observed(int(own[0]))[rank.rows] if len(own) else np.zeros(len(rank.rows), dtype=bool)


def _times(ranks: Sequence[_Rank], sites: Sequence[Site], steps: int) -> TimeTable:
    """Values per time. A rank on which a site ran once, and so has no rows, stands at time 0 where others have some."""
    step, site, time, values = (np.concatenate(parts) for parts in zip(*map(_time_rows, ranks), strict=True))
    several = np.zeros((steps, len(sites)), dtype=bool)
    several[step, site] = True
    for rank in ranks:
        own = np.zeros_like(several)
        own_step, own_site, _, _ = _time_rows(rank)
        own[own_step, own_site] = True
        whole = _values(rank, rank.rows, len(sites)) if (several & ~own).any() else None
        if whole is not None:
            once = several & ~own & ~np.isnan(whole[..., COLUMN["numel"]])
            at, which = np.nonzero(once)
            step, site = np.concatenate([step, at]), np.concatenate([site, which])
            time, values = np.concatenate([time, np.zeros(len(at), np.int64)]), np.concatenate([values, whole[once]])
    order = np.lexsort((time, site, step))
    step, site, time, values = step[order], site[order], time[order], values[order]
    if len(order):
        new = np.ones(len(order), dtype=bool)
        new[1:] = (step[1:] != step[:-1]) | (site[1:] != site[:-1]) | (time[1:] != time[:-1])
        values, step, site, time = combine(values, np.flatnonzero(new).tolist()), step[new], site[new], time[new]
    gradients = np.array([s.quantity in _OF_THE_LOSS for s in sites], dtype=bool)[site]
    values[gradients] = scaled(values[gradients], 1 / len(ranks))
    step, site, time = (index.astype(np.int32) for index in (step, site, time))
    return TimeTable(step=step, site=site, time=time, statistics=by_statistic(values))


def _time_rows(rank: _Rank) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Rows]:
    """Step, site, time and values of a rank's rows, as they lie in the whole."""
    times = rank.trace.times
    where = np.full(len(rank.trace.steps), -1, dtype=np.int64)
    where[rank.rows] = np.arange(len(rank.rows))
    step = where[times.step]
    kept = step >= 0
    site = rank.columns[times.site].astype(np.int64)
    return step[kept], site[kept], times.time[kept].astype(np.int64), times.values[kept]


def _told_apart(values: Sequence[float]) -> str:
    """`values` with as few digits as show that they differ."""
    written = [[f"{value:.{digits}g}" for value in values] for digits in range(3, 10)]
    return ", ".join(next((texts for texts in written if len(set(texts)) > 1), written[-1]))


def _differing(
    spread: Mapping[Statistic, Floats], steps: Ints, sites: Sequence[Site], meta: Mapping[str, Json]
) -> Iterable[Event]:
    """For each quantity of replicated parameters that is not the same on all ranks, where that begins."""
    about = meta["distributed"]
    if not isinstance(about, dict) or about.get("parameters") != "replicated":
        return
    rms = spread[Statistic.RMS].astype(np.float64)
    low = np.where(np.isnan(rms), np.inf, rms).min(axis=2)
    high = np.where(np.isnan(rms), 0.0, rms).max(axis=2)
    differ = high - low > _ROUNDING * high  # not where no rank has seen it: 0 − ∞
    for quantity in (Quantity.WEIGHT, Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD):
        columns = [i for i, site in enumerate(sites) if site.quantity is quantity]
        found = np.argwhere(differ[:, columns])
        if not len(found):
            continue
        step, column = int(found[0][0]), columns[int(found[0][1])]
        more = len(set(found[found[:, 0] == step, 1].tolist())) - 1
        message = (
            f"{sites[column]}{f' and {more} more' * (more > 0)} differ between the ranks"
            f" (rms {_told_apart(rms[step, column].tolist())}), so they are"
            " those of rank 0"
        )
        yield Event(step=int(steps[step]), kind="ranks-differ", module=sites[column].module, message=message)

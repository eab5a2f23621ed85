"""Recordings that are cut into some of their steps, and joined from pieces that follow each other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradscope.findings import Json
from gradscope.records import STATISTICS, Event, Site, Statistic
from gradscope.trace import PER_STEP, Floats, TimeTable, Trace, no_units

_NEVER = np.float32(np.nan)


def cut(trace: Trace, rows: NDArray[np.intp]) -> Trace:
    """Only the steps with the indices `rows`, which ascend; the events stay. Silent units and ranks are left out."""
    place = np.full(len(trace.steps), -1, dtype=np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    times = trace.times
    kept = place[times.step] >= 0
    return replace(
        trace,
        steps=trace.steps[rows],
        per_step={name: trace.per_step[name][rows] for name in PER_STEP},
        statistics={s.value: _rows(trace.statistics[s.value], rows) for s in STATISTICS},
        times=TimeTable(
            step=place[times.step[kept]],
            site=times.site[kept],
            time=times.time[kept],
            statistics={s.value: times.statistics[s.value][kept] for s in STATISTICS},
        ),
        units=no_units(),
        ranks=None,
    )


def joined(
    pieces: Sequence[Trace], sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event] = ()
) -> Trace:
    """One recording of at least one piece; a piece may lack the last of `sites`, which were not yet known then."""
    starts = np.cumsum([0, *(len(piece.steps) for piece in pieces)])
    return Trace(
        meta=dict(meta),
        sites=tuple(sites),
        steps=np.concatenate([piece.steps for piece in pieces]),
        per_step={name: np.concatenate([piece.per_step[name] for piece in pieces]) for name in PER_STEP},
        statistics={s.value: _joined([piece.statistics[s.value] for piece in pieces], len(sites)) for s in STATISTICS},
        times=TimeTable(
            step=np.concatenate([p.times.step + np.int32(start) for p, start in zip(pieces, starts, strict=False)]),
            site=np.concatenate([piece.times.site for piece in pieces]),
            time=np.concatenate([piece.times.time for piece in pieces]),
            statistics={
                s.value: np.concatenate([piece.times.statistics[s.value] for piece in pieces]) for s in STATISTICS
            },
        ),
        events=tuple(events),
    )


def size_of(trace: Trace) -> int:
    """Bytes of its numbers; a statistic that was never observed takes none."""
    tables = [*trace.statistics.values(), *trace.times.statistics.values()]
    return sum(table.nbytes for table in tables if not _is_empty(table)) + 12 * len(trace.times.step)


def broken(trace: Trace) -> NDArray[np.bool_]:
    """Where a step has NaN or Inf, shape (step, site + 1); the last column is of the loss."""
    loss = np.isinf(trace.per_step["loss"])[:, None]
    return np.concatenate([trace.statistics[Statistic.NONFINITE_COUNT] > 0, loss], axis=1)


def _rows(values: Floats, rows: NDArray[np.intp]) -> Floats:
    return np.broadcast_to(_NEVER, (len(rows), values.shape[1])) if _is_empty(values) else values[rows]


def _joined(tables: Sequence[Floats], sites: int) -> Floats:
    """(step, site)."""
    shape = (sum(map(len, tables)), sites)
    if all(_is_empty(table) for table in tables):
        return np.broadcast_to(_NEVER, shape)
    values = np.full(shape, _NEVER, dtype=np.float32)
    start = 0
    for table in tables:
        values[start : start + len(table), : table.shape[1]] = table
        start += len(table)
    return values


def _is_empty(values: Floats) -> bool:
    """Whether it holds one number, NaN, however large it looks; or nothing."""
    return not values.size or (not any(values.strides) and values.size > 1)

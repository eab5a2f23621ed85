"""A trace that another process writes, read while it grows: only what is new, and never more than a certain amount.

    tail = Tail("run.h5")
    while tail.standing is not Standing.ENDED:
        if tail.look():         # something has changed: there are more steps, or the writer has gone
            show(tail.trace)
        time.sleep(0.2)

The file is opened anew for each look at which it has changed, and not kept open in HDF5's SWMR mode: there a reader of
a file whose writer was killed in mid write tries again for ever (see `unclosed`). What was read before is not read
again, so a look costs the same however long the file is.

Of a long run every second step is kept, then every fourth and so on, as a recording with a larger `every` would have
them, and beside them the steps at which something begins or ends to be NaN or infinite, and the last one.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.claim import is_claimed
from gradscope.errors import TraceError
from gradscope.pieces import broken, cut, joined, size_of
from gradscope.records import Event
from gradscope.trace import Trace, TraceBuilder
from gradscope.trace_file import DAMAGE, Counters, Piece, opened, read_piece, reason, require_file, require_schema
from gradscope.unclosed import unclosed_file

MOST_STEPS: Final = 1024
MOST_BYTES: Final = 128 << 20
_FEWEST_STEPS = 64  # whatever they weigh
_AT_ONCE = 256  # steps that are read at a time
_MOST_PIECES = 64  # that are not joined
_DOUBT_S = 1.0  # how long nothing must have changed before the writer is asked for
_MOST_DAMAGED = 10  # looks at which the same file could not be read


class Standing(StrEnum):
    """How it stands with the writer."""

    ABSENT = "absent"  # there is no file
    BEGINNING = "beginning"  # a writer holds the file, and has not begun
    WRITTEN = "written"
    KILLED = "killed"  # the writer is gone and has not closed the file
    ENDED = "ended"  # the file was closed


@dataclass(slots=True)
class _Kept:
    """Some steps that are kept: their indices in the file, and which of them are kept whatever their index."""

    trace: Trace
    rows: NDArray[np.int64]
    telling: NDArray[np.bool_]

    def where(self, kept: NDArray[np.bool_]) -> "_Kept":
        return _Kept(cut(self.trace, np.flatnonzero(kept)), self.rows[kept], self.telling[kept])


@dataclass(slots=True)
class _Run:
    """What was read of one file.

    Attributes:
        identity: Of the file.
        read: Up to where it was read.
        stride: Every how many steps one is kept.
        kept: The steps that are kept, in pieces.
        last: The last step, whether it is kept or not.
        newest: What was read last: of it come sites and metadata.
        broken: What was NaN or infinite in the last step.
    """

    identity: tuple[int, int]
    read: Counters = Counters()  # noqa: RUF009 (it is a tuple)
    stride: int = 1
    kept: list[_Kept] = field(default_factory=list)
    last: _Kept | None = None
    newest: Trace | None = None
    early: tuple[Event, ...] = ()
    late: tuple[Event, ...] = ()
    broken: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, bool))


class Tail:
    """See the module.

    Args:
        path: Of the file, which need not exist yet.
        most_steps: That are kept.
        most_bytes: What they may take; whatever that is, 64 steps are kept.
        ignore: Inode of a file that does not count: what lies there will be replaced.
        clock: Seconds, from any time on.

    Attributes:
        standing: How it stands with the writer.
        runs: How many files with steps have been seen.
        changed_at: When the clock saw the last change.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        most_steps: int = MOST_STEPS,
        most_bytes: int = MOST_BYTES,
        ignore: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self.standing = Standing.ABSENT
        self.runs = 0
        self.changed_at = clock()
        self._clock = clock
        self._most_steps, self._most_bytes = most_steps, most_bytes
        self._ignore = ignore
        self._run: _Run | None = None
        self._seen: tuple[int, int] = (0, 0)  # when it was changed, and its size
        self._asked_at = -np.inf
        self._damaged = 0
        self._trace: Trace | None = None

    @property
    def steps(self) -> int:
        """How many the file holds."""
        return self._run.read.steps if self._run else 0

    @property
    def stride(self) -> int:
        """Every how many of the recorded steps one is kept."""
        return self._run.stride if self._run else 1

    @property
    def trace(self) -> Trace:
        """What is kept."""
        if self._trace is None:
            self._trace = self._joined()
        return self._trace

    def look(self) -> bool:
        """Reads what is new; whether anything has changed since the last look.

        Raises:
            TraceError: What lies there is no trace, or it is damaged.
        """
        before = self.standing, self.runs, self.steps
        try:
            status = os.stat(self.path)
            if status.st_ino == self._ignore or not status.st_size:
                self.standing = Standing.ABSENT
            else:
                self._look_at(status)
        except FileNotFoundError:
            self.standing = Standing.ABSENT
        changed = before != (self.standing, self.runs, self.steps)
        if changed:
            self.changed_at = self._clock()
        return changed

    def _look_at(self, status: os.stat_result) -> None:
        identity = status.st_dev, status.st_ino
        if self._run is None or self._run.identity != identity:
            require_file(self.path)
            self._run, self._trace, self._seen, self._asked_at = _Run(identity), None, (0, 0), -np.inf
        fresh = self._seen != (status.st_mtime_ns, status.st_size)
        if fresh or self.standing in (Standing.WRITTEN, Standing.BEGINNING, Standing.ABSENT):
            steps = self.steps
            if fresh or time.time_ns() - status.st_mtime_ns < 2e9:  # it may have changed twice in one tick
                self._read(self._run, status)
            self._ask(grown=self.steps > steps)

    def _ask(self, *, grown: bool) -> None:
        """Whether there is still a writer. Asking takes its lock for a moment, so it is asked when there is doubt."""
        now = self._clock()
        if grown and self._asked_at > -np.inf:  # else it may be long over
            self.standing, self._asked_at = Standing.WRITTEN, now
            return
        if now - self._asked_at < _DOUBT_S and self.standing is not Standing.ABSENT:
            return
        unclosed = unclosed_file(self.path)
        if unclosed is not None:
            unclosed.close()
        claimed = is_claimed(self.path)  # last: who closes it lets go afterwards
        self._asked_at = now
        if unclosed is not None:
            self.standing = Standing.KILLED if claimed is False else Standing.WRITTEN
        else:
            self.standing = Standing.BEGINNING if claimed else Standing.ENDED

    def _read(self, run: _Run, status: os.stat_result) -> None:
        """All steps that were committed since, some at a time."""
        try:
            more = True
            while more:
                with opened(self.path) as file:
                    require_schema(file, self.path)
                    piece = read_piece(file, status.st_size, run.read, _AT_ONCE)
                self._take(run, piece)
                more = piece.end.steps < piece.committed.steps
        except DAMAGE as damage:  # a block may have been read half
            self._damaged += 1
            if self._damaged > _MOST_DAMAGED:
                raise TraceError(f"{self.path} is truncated or damaged: {reason(damage)}.") from damage
        else:
            self._damaged, self._seen = 0, (status.st_mtime_ns, status.st_size)

    def _take(self, run: _Run, piece: Piece) -> None:
        trace = piece.trace
        events = len(trace.events) - piece.late
        run.early, run.late = (*run.early, *trace.events[:events]), trace.events[events:]
        run.newest = trace
        self._trace = None
        if len(trace.steps):
            self.runs += not run.read.steps
            is_broken = broken(trace)
            sites = is_broken.shape[1] - 1
            before = np.zeros(sites + 1, bool)
            before[: len(run.broken) - 1], before[-1] = run.broken[:-1], run.broken[-1]
            telling = (is_broken != np.concatenate([before[None], is_broken[:-1]])).any(axis=1)
            run.broken = is_broken[-1]
            rows = np.arange(run.read.steps, piece.end.steps, dtype=np.int64)
            taken = _Kept(trace, rows, telling)
            run.last = taken.where(rows == rows[-1])
            run.kept.append(taken.where((rows % run.stride == 0) | telling))
            self._thin(run)
        # the events are all read at once, and the rest of the file a piece at a time
        run.read = piece.end

    def _thin(self, run: _Run) -> None:
        """Keeps no more than there is room for."""
        while True:
            count = sum(len(kept.rows) for kept in run.kept)
            weight = sum(size_of(kept.trace) for kept in run.kept) / max(1, count)
            most = max(_FEWEST_STEPS, min(self._most_steps, int(self._most_bytes / max(1.0, weight))))
            if count <= most:
                break
            run.stride *= 2
            telling = np.concatenate([kept.rows[kept.telling] for kept in run.kept])
            if len(telling) > most // 4:  # the first and the last of them are enough
                telling = np.concatenate([telling[: most // 8], telling[-(most // 8) :]])
            for at, kept in enumerate(run.kept):
                kept.telling &= np.isin(kept.rows, telling)
                run.kept[at] = kept.where((kept.rows % run.stride == 0) | kept.telling)
        if len(run.kept) > _MOST_PIECES:
            last = run.kept[-1].trace
            run.kept = [
                _Kept(
                    joined([kept.trace for kept in run.kept], last.sites, last.meta),
                    np.concatenate([kept.rows for kept in run.kept]),
                    np.concatenate([kept.telling for kept in run.kept]),
                )
            ]

    def _joined(self) -> Trace:
        run = self._run
        if run is None or run.newest is None:
            return TraceBuilder().finish((), {})
        pieces = [kept.trace for kept in run.kept]
        if run.last is not None and run.last.rows[0] not in run.kept[-1].rows:
            pieces.append(run.last.trace)
        pieces = pieces or [run.newest]
        return joined(pieces, run.newest.sites, run.newest.meta, (*run.early, *run.late))

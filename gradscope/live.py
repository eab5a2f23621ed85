"""A training that runs in another process, watched: its trace as it grows, and what the rules say of it.

    with Watcher("run.h5") as watcher:
        while not (moment := watcher.look()).is_settled:
            show(moment)

Reading takes some milliseconds; the rules may take a second and more, so they run in a thread of their own, on one
trace at a time, and rest four times as long as they have worked: a view stays in time, and the training keeps its
processor.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gradscope.findings import Diagnosis
from gradscope.moment import Moment
from gradscope.rules.engine import diagnose
from gradscope.tail import Tail
from gradscope.trace import Trace

_REST: Final = 4  # times as long as the last judgement
_LEAST_REST_S: Final = 1.0
_RATE_OVER_S: Final = 10.0


class Watcher:
    """See the module.

    Args:
        path: Of the trace, which need not exist yet.
        ignore: Inode of a file that does not count, see `Tail`.
        clock: Seconds, from any time on.
    """

    def __init__(
        self, path: str | Path, *, ignore: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tail = Tail(path, ignore=ignore, clock=clock)
        self._path = str(path)
        self._clock = clock
        self._judge = _Judge(clock)
        self._seen: deque[tuple[float, int]] = deque()  # when which optimizer step was there
        self._run = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._judge.join()

    def look(self) -> Moment:
        """How it stands now.

        Raises:
            TraceError: What lies there is no trace, or it is damaged.
            PluginError: Somebody's rules are none.
        """
        tail = self._tail
        grown = tail.look()
        if tail.runs != self._run:
            self._run = tail.runs
            self._seen.clear()
        if grown and len(tail.trace.steps):
            self._note(int(tail.trace.steps[-1]))
        run, judged, diagnosis = self._judge.latest
        if run != self._run:
            judged, diagnosis = 0, None
        moment = Moment(
            path=self._path,
            standing=tail.standing,
            run=self._run,
            recorded=tail.steps,
            trace=tail.trace,
            diagnosis=diagnosis,
            judged=judged,
            rate=self._rate(),
            silent_s=self._clock() - tail.changed_at,
        )
        if moment.recorded and (judged != moment.recorded or diagnosis is None):
            self._judge.offer(moment)
        return moment

    def _note(self, step: int) -> None:
        now = self._clock()
        self._seen.append((now, step))
        while len(self._seen) > 2 and now - self._seen[1][0] > _RATE_OVER_S:
            self._seen.popleft()

    def _rate(self) -> float:
        if len(self._seen) < 2:
            return float("nan")
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else float("nan")


class _Judge:
    """Judges the latest trace that it was offered, when it is its time.

    Attributes:
        latest: Of which run, of how many steps, and what was found.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.latest: tuple[int, int, Diagnosis | None] = (0, 0, None)
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._not_before = float("-inf")
        self._error: Exception | None = None

    def offer(self, moment: Moment) -> None:
        """Begins to judge it, unless it is busy or rests; of what is over it does not wait."""
        if self._error is not None:
            raise self._error
        if self._thread is not None and self._thread.is_alive():
            return
        if moment.is_over or self._clock() >= self._not_before:
            self._thread = threading.Thread(target=self._judge, args=(moment.run, moment.recorded, moment.trace))
            self._thread.daemon = True  # a rule that somebody else wrote may take for ever
            self._thread.start()

    def join(self) -> None:
        """Waits a little for what it is at."""
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _judge(self, run: int, recorded: int, trace: Trace) -> None:
        start = self._clock()
        try:
            self.latest = (run, recorded, diagnose(trace))
        except Exception as error:
            self._error = error
        now = self._clock()
        self._not_before = now + max(_LEAST_REST_S, _REST * (now - start))

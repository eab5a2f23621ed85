"""The way from a recording to an experiment tracker, finished (`log_recording`) or while it grows (`follow`).

What every tracker is told: the aggregates of each recorded step, and the findings with the sites that stand out, at the
end and, while the training runs, whenever they have changed. No torch here: a trace that was read is logged without.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from gradscope.findings import Diagnosis
from gradscope.integrations.selection import Extreme, Selection, step_aggregates, trace_aggregates, trace_extremes
from gradscope.records import Site
from gradscope.rules.engine import diagnose
from gradscope.trace import Follower, StepRecord, Trace

_MOST_STEPS = 1000  # of a finished recording; no chart shows more
_FIRST_DIAGNOSIS = 16  # records; then at twice, four times, … as many, so that all of them cost no more than the last


class Tracker(Protocol):
    """What an experiment tracker is asked for."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the aggregates of a step."""
        ...

    def findings(self, step: int, diagnosis: Diagnosis, extremes: Sequence[Extreme]) -> None:
        """Takes what was found up to `step`."""
        ...

    def flush(self) -> None:
        """Everything was handed over."""
        ...


class Recording(Protocol):
    """A scope, as far as a tracker needs it."""

    @property
    def trace(self) -> Trace:
        """What was recorded so far."""
        ...

    def diagnose(self) -> Diagnosis:
        """What the rules find in it."""
        ...

    def follow(self, follower: Follower) -> None:
        """`follower` is told of every step."""
        ...


def log_recording(recording: Recording | Trace, tracker: Tracker) -> Diagnosis:
    """Hands a finished recording to `tracker`; of a long one, evenly spaced steps. Returns what was found."""
    trace = recording if isinstance(recording, Trace) else recording.trace
    diagnosis = diagnose(trace) if isinstance(recording, Trace) else recording.diagnose()
    selection = Selection(trace.sites)
    numbers = trace_aggregates(selection, trace)
    rows = np.unique(np.linspace(0, len(trace.steps) - 1, min(len(trace.steps), _MOST_STEPS)).round().astype(int))
    for row in rows:
        values = {name: float(series[row]) for name, series in numbers.items() if not np.isnan(series[row])}
        tracker.numbers(int(trace.steps[row]), values)
    last = int(trace.steps[-1]) if len(trace.steps) else 0
    tracker.findings(last, diagnosis, trace_extremes(selection, trace))
    tracker.flush()
    return diagnosis


def follow(scope: Recording, tracker: Tracker) -> None:
    """From now on `tracker` is told of each step that `scope` records, and of the findings as they change."""
    scope.follow(_Following(scope, tracker))


class _Following:
    """Stands between a scope and a tracker."""

    def __init__(self, scope: Recording, tracker: Tracker) -> None:
        self._scope = scope
        self._tracker = tracker
        self._selection = Selection(())
        self._records = 0
        self._step = 0
        self._known: set[tuple[str, str, str]] | None = None

    def __repr__(self) -> str:
        return type(self._tracker).__name__

    def recorded(self, record: StepRecord, sites: Sequence[Site]) -> None:
        """A step has ended."""
        if self._selection.sites is not sites:  # the recorder makes a new tuple when there are new ones
            self._selection = Selection(sites)
        self._step = record.step
        self._tracker.numbers(record.step, step_aggregates(self._selection, record))
        self._records += 1
        if self._records >= _FIRST_DIAGNOSIS and self._records & (self._records - 1) == 0:
            self._judge(always=False)

    def ended(self) -> None:
        """The scope was detached."""
        self._judge(always=True)
        self._tracker.flush()

    def _judge(self, *, always: bool) -> None:
        diagnosis = self._scope.diagnose()
        found = {(f.code, f.module, f.severity.value) for f in diagnosis}
        if always or found != self._known:
            self._known = found
            trace = self._scope.trace
            self._tracker.findings(self._step, diagnosis, trace_extremes(Selection(trace.sites), trace))

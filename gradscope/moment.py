"""What is known of a training at one moment while it runs: what a live view shows."""

from dataclasses import dataclass

from gradscope.findings import Diagnosis
from gradscope.tail import Standing
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """A recording in progress.

    Attributes:
        path: Of the trace, as the user wrote it.
        standing: How it stands with the writer.
        run: Number of the run, from 1; 0 before any. A file that takes the place of another is a new one.
        recorded: Steps that the file holds; the trace may have fewer of them.
        trace: Without a step, where nothing was recorded yet.
        diagnosis: The latest, of this run; None before the first.
        judged: Steps that the file held when that was made.
        rate: Optimizer steps a second, of late; NaN while that is not known.
        silent_s: Seconds since something has changed.
    """

    path: str
    standing: Standing
    run: int
    recorded: int
    trace: Trace
    diagnosis: Diagnosis | None
    judged: int
    rate: float
    silent_s: float

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more, unless a new run replaces this one."""
        return self.standing in (Standing.KILLED, Standing.ENDED)

    @property
    def is_settled(self) -> bool:
        """Whether it is over and all of it was judged."""
        return self.is_over and (not self.recorded or (self.diagnosis is not None and self.judged == self.recorded))

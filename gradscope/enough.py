"""The end of a script that is only to be looked at for some steps: an exception out of the end of one of them.

`SystemExit` is raised when the step is complete and recorded. `finally` and `with` run as for any other exception;
`except Exception` does not catch it, and a thread dies of it without a word. A script that catches it all the same goes
on without being recorded, is stopped again a few times, and then left alone.
"""

import logging
from collections.abc import Callable, Sequence

from gradscope.records import Site
from gradscope.trace import StepRecord

_PATIENCE = 10  # steps between two attempts: what a script does at its end must not be cut off
_ATTEMPTS = 3

_log = logging.getLogger("gradscope")


class Limit:
    """Raises `SystemExit` after `steps` steps of every model, or twice as many of any. Follows each recording.

    Attributes:
        reached: Whether it has.

    Args:
        counts: How many steps of each model are recorded, and whether a model waits for its first.
        close: Ends the recordings.
    """

    def __init__(self, steps: int, counts: Callable[[], tuple[Sequence[int], bool]], close: Callable[[], None]) -> None:
        self.reached = False
        self._steps = steps
        self._counts = counts
        self._close = close
        self._further = 0
        self._lifted = False

    def step_ended(self) -> None:
        """A step of some model has ended.

        Raises:
            SystemExit: It was the last one.
        """
        if self._lifted:
            return
        if self.reached:
            self._insist()
            return
        counts, more_to_come = self._counts()
        least = min(counts, default=0)
        if (least >= self._steps and not more_to_come) or max(counts, default=0) >= 2 * self._steps:
            self.reached = True
            self._close()
            self._further = 0  # closing tells those who follow
            raise SystemExit

    def _insist(self) -> None:
        """The script has caught what should have ended it, or is doing what it does at its end."""
        self._further += 1
        if self._further % _PATIENCE == 0 and self._further < _ATTEMPTS * _PATIENCE:
            raise SystemExit
        if self._further == _ATTEMPTS * _PATIENCE:
            _log.warning(
                "gradscope: the script catches what should end it after %d steps (`except:`, `except BaseException:`);"
                " it runs on to its own end, without being recorded",
                self._steps,
            )

    def lift(self) -> None:
        """The script is over."""
        self._lifted = True

    def recorded(self, record: StepRecord, sites: Sequence[Site]) -> None:
        """A step is over because the next one has begun: that of a loop without an optimizer ends in no other way."""
        self.step_ended()

    def ended(self) -> None:
        """A recording is over."""

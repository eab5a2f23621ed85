"""A user's script, run until it has trained for some steps: what `gradscope check train.py -- ARGS` judges.

The script is run as `gradscope attach` runs it. It need not know that it is stopped: see `enough`. Two ways of ending a
process would take the verdict with it, `os._exit` and `os.exec*`; in the script's own process they end the script only.
"""

import atexit
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from gradscope import script as scripts
from gradscope.awaited import when_imported
from gradscope.errors import UsageError
from gradscope.tracebacks import without_ours

if TYPE_CHECKING:
    from gradscope.onlooker import Onlooker
    from gradscope.trace import Trace


def rehearse(script: str, arguments: tuple[str, ...], *, is_module: bool, steps: int) -> "list[tuple[str, Trace]]":
    """Runs `script` until `steps` steps of each of its models are recorded, or to its end if that comes before.

    Its output goes where it goes; that of its exit handlers, which run when the process ends, to stderr.

    Returns:
        What the script calls each model, and its trace; never empty.

    Raises:
        UsageError: There is no such script, it gave up by `sys.exit`, it became another program, or trained nothing.
        Exception: Whatever the script raises by itself.
    """
    rehearsal = _Rehearsal(script, steps)
    found = scripts.find(script, arguments, is_module=is_module)
    when_imported("torch", rehearsal.begin)
    scripts.before_exec(rehearsal.replaced)
    scripts.before_exit(rehearsal.left)
    code = 0
    error: BaseException | None = None
    threads = set(threading.enumerate())
    with _put_back():
        try:
            scripts.execute(found)
            if any(not thread.daemon for thread in set(threading.enumerate()) - threads):
                scripts.join_threads()
        except SystemExit as leaving:
            code = 0 if rehearsal.complete else scripts.exit_code(leaving)
        except Exception as raised:
            if not rehearsal.complete:  # else it is what the script makes of being stopped
                error = raised
                raise
        finally:
            if os.getpid() != rehearsal.process:  # a child that the script forked and let go on
                _leave(code)
            rehearsal.end(error)
            atexit.register(_stdout_aside)  # the handlers that were registered last are called first
    return rehearsal.traces(code)


class _Rehearsal:
    """What is recorded of a script, from the moment at which it loads torch."""

    def __init__(self, script: str, steps: int) -> None:
        self.process = os.getpid()
        self._script = script
        self._steps = steps
        self._over = False
        self._onlooker: Onlooker | None = None

    def begin(self) -> None:
        """Torch has been imported."""
        from gradscope.onlooker import Onlooker

        self._onlooker = Onlooker(out=None, every=1, steps=self._steps)
        self._onlooker.begin()

    @property
    def complete(self) -> bool:
        """Whether the script has trained for long enough, and was told to end."""
        return self._onlooker is not None and self._onlooker.limit is not None and self._onlooker.limit.reached

    def end(self, error: BaseException | None) -> None:
        """The script is over."""
        self._over = True
        if self._onlooker is not None:
            self._onlooker.end(error)
            for note in self._onlooker.notes:
                print(f"gradscope: {note.rstrip('.')}.", file=sys.stderr)

    def traces(self, code: int) -> "list[tuple[str, Trace]]":
        """What was recorded of a script that ended with the exit code `code`. Raises as `rehearse`."""
        onlooker = self._onlooker
        recorded = [] if onlooker is None else [(root.name, root.trace) for root in onlooker.roots if root.trace]
        recorded = [(name, trace) for name, trace in recorded if len(trace.steps)]
        if code:
            trained = max((len(trace.steps) for _, trace in recorded), default=0)
            raise UsageError(
                f"{self._script} ended with exit code {code} after {trained} of {self._steps} steps; what it says is"
                " above, and its own arguments stand behind `--`."
            )
        if onlooker is None:
            raise UsageError(f"nothing was recorded: {self._script} never imported torch.")
        if not recorded:
            raise UsageError(f"nothing was recorded: {onlooker.why_nothing(self._script)}")
        return recorded

    def replaced(self) -> None:
        """The script is about to put another program into its place."""
        if self._runs_here():
            raise UsageError(
                f"{self._script} puts another program into its place (os.exec), which is not recorded; check that one."
            )

    def left(self, code: int) -> None:
        """The script is about to end the process at once, and the verdict with it."""
        if self._runs_here():
            raise SystemExit(code)

    def _runs_here(self) -> bool:
        return not self._over and os.getpid() == self.process


@contextmanager
def _put_back() -> Iterator[None]:
    """What gradscope still needs after the script: where it is, what it can import, what its numbers may do."""
    folder, path, arguments, main = os.getcwd(), list(sys.path), list(sys.argv), sys.modules["__main__"]
    process = os.getpid()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        if os.getpid() == process:
            os.chdir(folder)
            sys.path[:], sys.argv[:], sys.modules["__main__"] = path, arguments, main
            np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")


def _stdout_aside() -> None:
    with suppress(OSError, ValueError):  # one of them is closed
        sys.stdout.flush()
        os.dup2(2, 1)


def _leave(code: int) -> NoReturn:
    """Ends a child of the script as Python would."""
    error = sys.exception()
    if error is not None:
        sys.excepthook(type(error), without_ours(error), error.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if error is None else 1)

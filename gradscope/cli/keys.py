"""Whether somebody has pressed a key, without waiting for it and without a line's end."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

try:
    import select
    import termios
    import tty
except ImportError:  # Windows: there ctrl-c ends a view
    termios = None  # type: ignore[assignment]


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits some seconds for a key and returns it; "" if none came, or nobody sits there."""
    if termios is None or not sys.stdin.isatty():
        yield _nobody
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> str:
        if select.select([descriptor], [], [], seconds)[0]:
            return sys.stdin.read(1)
        return ""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _nobody(seconds: float) -> str:
    time.sleep(seconds)
    return ""

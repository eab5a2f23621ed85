"""What must still be written when the process ends: by an exception, `sys.exit`, or SIGTERM.

SIGTERM is caught only while something is pending, and only from the main thread; whoever handled it before is called
afterwards, and where nobody did the process dies of it as it would have.
"""

import atexit
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, TypeAlias

_Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None

_log = logging.getLogger("gradscope")


class Unwritten(Protocol):
    """Something that holds what is not yet on disk."""

    def flush(self) -> None:
        """Writes it; more may follow."""
        ...

    def close(self) -> None:
        """Writes it; nothing follows."""
        ...

    def abandon(self) -> None:
        """Writes nothing, ever: this process is a fork, and the file is its parent's."""
        ...


class _State:
    """Shared by all that are pending, since a process has one SIGTERM."""

    def __init__(self) -> None:
        self.pending: weakref.WeakSet[Unwritten] = weakref.WeakSet()
        self.lock = threading.RLock()
        self.busy = False
        self.arrived = False  # SIGTERM, while busy


_state = _State()


def pending() -> list[Unwritten]:
    """What was added and not discarded. It is referred to weakly."""
    return list(_state.pending)


def add(item: Unwritten) -> None:
    """From now on `item` is closed when the process ends."""
    _state.pending.add(item)
    previous = signal.getsignal(signal.SIGTERM)
    ignored = previous in (signal.SIG_IGN, None)  # None: handled by something that is not Python
    if threading.current_thread() is threading.main_thread() and not ignored and not isinstance(previous, _Sigterm):
        signal.signal(signal.SIGTERM, _Sigterm(previous))


def discard(item: Unwritten) -> None:
    """`item` has been written."""
    _state.pending.discard(item)
    if not _state.pending:
        _release_sigterm()


def quietly(write: Callable[[], None]) -> None:
    """Calls `write` where nobody could catch what it raises."""
    try:
        write()
    except Exception as error:
        _log.error("gradscope: %s", error)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps other threads, and SIGTERM, from coming between two writes that belong together."""
    state = _state
    try:
        with state.lock:
            outer, state.busy = state.busy, True
            try:
                yield
            finally:
                state.busy = outer
    finally:
        if state.arrived and not outer:
            state.arrived = False
            signal.raise_signal(signal.SIGTERM)


class _Sigterm:
    """A handler that writes what is pending and then does what would have been done without it."""

    def __init__(self, previous: _Handler) -> None:
        self.previous = previous

    def __call__(self, number: int, frame: FrameType | None) -> None:
        _state.arrived = True  # before busy is looked at: one of the two sides sees the other
        if _state.busy:
            return
        _state.arrived = False
        for item in pending():
            quietly(item.flush if callable(self.previous) else item.close)
        if callable(self.previous):
            self.previous(number, frame)  # it may well let the training go on
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)


def _release_sigterm() -> None:
    current = signal.getsignal(signal.SIGTERM)
    if isinstance(current, _Sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, current.previous)


def _close_pending() -> None:
    for item in pending():
        quietly(item.close)


def _forget_pending() -> None:
    """In a forked child: everything that is pending is its parent's."""
    global _state
    forked, _state = pending(), _State()
    for item in forked:
        item.abandon()
    _release_sigterm()


atexit.register(_close_pending)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pending)

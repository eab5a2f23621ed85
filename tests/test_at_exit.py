import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from gradscope import at_exit
from gradscope.errors import TraceError


class Notes:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def flush(self) -> None:
        self.asked.append("flush")

    def close(self) -> None:
        self.asked.append("close")
        at_exit.discard(self)

    def abandon(self) -> None:
        self.asked.append("abandon")


@pytest.fixture
def notes() -> Iterator[Notes]:
    item = Notes()
    yield item
    at_exit.discard(item)


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """A handler of the user's own that lets the training go on."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_users_is_called_after_the_flush(notes: Notes, handled: list[int]) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    at_exit.add(notes)
    assert at_exit.pending() == [notes]
    signal.raise_signal(signal.SIGTERM)
    assert (notes.asked, handled) == (["flush"], [signal.SIGTERM])
    at_exit.discard(notes)
    assert signal.getsignal(signal.SIGTERM) is mine
    assert at_exit.pending() == []


def test_sigterm_waits_for_a_write(notes: Notes, handled: list[int]) -> None:
    at_exit.add(notes)
    with at_exit.undisturbed():
        with at_exit.undisturbed():
            signal.raise_signal(signal.SIGTERM)
        assert (notes.asked, handled) == ([], [])
    assert (notes.asked, handled) == (["flush"], [signal.SIGTERM])


def test_sigterm_is_not_lost_when_the_write_fails(notes: Notes, handled: list[int]) -> None:
    at_exit.add(notes)

    def fail() -> None:
        with at_exit.undisturbed():
            signal.raise_signal(signal.SIGTERM)
            raise TraceError("disk full")

    with pytest.raises(TraceError, match="disk full"):
        fail()
    assert (notes.asked, handled) == (["flush"], [signal.SIGTERM])


def test_sigterm_waits_for_a_write_in_another_thread(notes: Notes, handled: list[int]) -> None:
    at_exit.add(notes)
    writing, arrived = threading.Event(), threading.Event()

    def write() -> None:
        with at_exit.undisturbed():
            writing.set()
            assert arrived.wait(10)
            notes.asked.append("written")

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(10)
    signal.raise_signal(signal.SIGTERM)
    arrived.set()
    thread.join()
    assert notes.asked == ["written", "flush"]
    assert handled == [signal.SIGTERM]


def test_a_handler_installed_later_stays(notes: Notes, handled: list[int]) -> None:
    at_exit.add(notes)
    ours = signal.getsignal(signal.SIGTERM)
    assert callable(ours)

    def theirs(number: int, frame: object) -> None:
        ours(number, None)  # a polite one

    signal.signal(signal.SIGTERM, theirs)
    at_exit.discard(notes)
    assert signal.getsignal(signal.SIGTERM) is theirs
    at_exit.add(notes)  # again, on top of theirs: the chain must not become a circle
    signal.raise_signal(signal.SIGTERM)
    assert notes.asked == ["flush", "flush"]
    assert handled == [signal.SIGTERM]


def test_an_ignored_sigterm_stays_ignored(notes: Notes, handled: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    at_exit.add(notes)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_outside_the_main_thread_no_handler_is_installed(notes: Notes, handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=at_exit.add, args=(notes,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert at_exit.pending() == [notes]


def test_what_nobody_could_catch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise TraceError("run.h5 cannot be written: disk full.")

    at_exit.quietly(fail)
    assert caplog.messages == ["gradscope: run.h5 cannot be written: disk full."]


@pytest.mark.parametrize(
    ("end", "code", "asked"),
    [
        ("pass", 0, "close"),
        ("sys.exit(4)", 4, "close"),
        ("1 / 0", 1, "close"),
        ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM, "close"),
        ("os.fork() and os.wait()", 0, "abandon close"),
    ],
)
def test_what_is_pending_is_closed_when_the_process_ends(end: str, code: int, asked: str) -> None:
    script = f"""if True:
        import os, signal, sys
        from gradscope import at_exit
        class Loud:
            def flush(self): print("flush", flush=True)
            def close(self): print("close", flush=True); at_exit.discard(self)
            def abandon(self): print("abandon", flush=True)
        item = Loud()
        at_exit.add(item)
        {end}
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.split() == asked.split()

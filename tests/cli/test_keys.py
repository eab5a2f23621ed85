"""At a pseudo terminal."""

import os
import pty
import sys
import termios

import pytest

from gradscope.cli.keys import keys


@pytest.fixture
def terminal(monkeypatch):
    controller, ours = pty.openpty()
    with open(ours, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield controller
    os.close(controller)


def test_a_key_comes_without_a_line_end_and_the_terminal_is_left_as_it_was(terminal):
    before = termios.tcgetattr(sys.stdin.fileno())
    with keys() as pressed:
        assert pressed(0.0) == ""
        os.write(terminal, b"q")
        assert pressed(5.0) == "q"
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_where_nobody_sits_no_key_is_waited_for(monkeypatch):
    with open(os.devnull, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with keys() as pressed:
            assert pressed(0.0) == ""

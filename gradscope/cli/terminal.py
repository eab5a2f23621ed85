"""Where the command line writes: results to stdout, everything else to stderr."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console

# One character for one where possible: charts and tables keep their columns.
PLAIN = {
    "∂": "d", "Δ": "D", "‖": "|", "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "…": "~", "±": "~", "≈": "~",
    "≤": "<=", "≥": ">=", "→": ">", "↳": ">", "√": "sqrt ", "χ": "chi", "σ": "sigma", "φ": "phi", "π": "pi", "∞": "inf",
    "⁰": "0", "¹": "1", "²": "^2", "³": "3", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9", "⁻": "-",
    "₀": "0", "₁": "1", "₂": "2", "ₜ": "t", "’": "'", "′": "'", "“": '"', "”": '"',
}  # fmt: skip


def say(sentence: str) -> None:
    """One line on stderr."""
    click.echo(f"gradscope: {sentence}", err=True)


def stdout() -> "Console":
    """Where results go: coloured on a terminal, as wide as it; `NO_COLOR`, `COLUMNS` and pipes are honoured."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def stderr() -> "Console":
    """Where progress goes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def stdout_aside() -> Iterator[None]:
    """What is printed inside goes to stderr, whoever prints it, a child process too: stdout is for results."""
    ours = sys.stdout
    ours.flush()
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ours.flush()  # a logger may have kept it
        os.dup2(kept, 1)
        os.close(kept)


def open_streams() -> None:
    """Gives stdout and stderr that the caller has closed somewhere to write to: Python leaves None in their place."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:  # the lowest number that is free: what is closed before it took it
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def tolerate_any_encoding(*streams: TextIO) -> None:
    """A character that a stream's encoding lacks is written by its nearest ASCII ones instead of ending the program."""
    codecs.register_error(_TOLERANT, _nearest_characters)
    for stream in streams:
        _as_found.append((stream, stream.errors))
        _handle_errors(stream, _TOLERANT)


def leave_encoding_alone() -> None:
    """Undoes `tolerate_any_encoding`: what is written now is somebody else's."""
    while _as_found:
        _handle_errors(*_as_found.pop())


_TOLERANT = "gradscope"
_as_found: list[tuple[TextIO, str | None]] = []


def _handle_errors(stream: TextIO, errors: str | None) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=errors)


def _nearest_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end

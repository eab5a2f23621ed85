"""The command line in this process, and stand-ins for what is installed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest

from gradscope import plugins
from gradscope.cli import main


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch) -> Callable[..., Outcome]:
    """Runs `gradscope` with words as arguments."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def installed(monkeypatch) -> Callable[..., None]:
    """Replaces what the entry points offer: `installed(rules=(…,))`."""
    real = plugins.load

    def replace(**offered: tuple[object, ...]) -> None:
        known: Mapping[str, tuple[object, ...]] = offered
        monkeypatch.setattr(plugins, "load", lambda kind: known[kind] if kind in known else real(kind))

    return replace

"""`pytest --gradscope-write-baseline FILE`: what the tests find is known from now on."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradscope.baseline import Baseline, read_baseline, write_baseline
from gradscope.errors import UsageError
from gradscope.verdict import Identity

if TYPE_CHECKING:
    from gradscope.integrations.pytest_judging import Told


class BaselineWriter:
    """Takes in what the reports of all tests carry and writes it at the end of the run.

    What the file holds of tests that did not run stays there.
    """

    def __init__(self, path: Path) -> None:
        """Reads what the file at `path` holds, if there is one.

        Raises:
            UsageError: It is no baseline, or its folder is not there.
        """
        self._path = path
        if not path.parent.is_dir():
            raise pytest.UsageError(
                f"gradscope: the baseline {str(path)!r} cannot be written: there is no such folder."
            )
        try:
            self._before = read_baseline(path) if path.exists() else Baseline()
        except UsageError as error:
            raise pytest.UsageError(f"gradscope: {error}") from error
        self._now = self._before
        self._ran: set[str] = set()
        self._told: list[Told] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has come to its end."""
        if report.when == "teardown":
            told: list[Told] = getattr(report, "gradscope", [])
            self._ran |= {report.nodeid, *(one["target"] for one in told)}
            self._told += told

    def pytest_sessionfinish(self) -> None:
        """Writes the file; not only where there is a summary."""
        known = {target for target, _, _ in self._before.findings} | self._before.profiles.keys()
        kept = self._before.without(target for target in known if {target, target.rpartition("#")[0]} & self._ran)
        found = {Identity(one["target"], code, module) for one in self._told for code, module in one["found"]}
        profiles = {one["target"]: one["gains"] for one in self._told if one["gains"]}
        self._now = Baseline(findings=kept.findings | found, profiles={**kept.profiles, **profiles})
        try:
            write_baseline(self._now, self._path)
        except UsageError as error:
            raise pytest.UsageError(f"gradscope: {error}") from error

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Says how much the file holds."""
        number = len(self._now.findings)
        terminalreporter.write_line(f"gradscope: {number} finding{'s' * (number != 1)} known in {self._path}")

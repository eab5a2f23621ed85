"""`pytest --gradscope-write-baseline FILE`: what the tests find is known from now on."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradscope.baseline import Baseline, baseline_before, write_baseline
from gradscope.errors import UsageError
from gradscope.verdict import Identity

if TYPE_CHECKING:
    from gradscope.integrations.pytest_judging import Told


class BaselineWriter:
    """Takes in what the reports of all tests carry and writes it at the end of the run.

    What the file holds of models that were not judged stays there, unless their test has passed without them.
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
            self._before = baseline_before(path)
        except UsageError as error:
            raise pytest.UsageError(f"gradscope: {error}") from error
        self._now = self._before
        self._passed: set[str] = set()  # tests, as reports call them
        self._over: set[str] = set()  # the same tests, as a baseline calls them
        self._told: list[Told] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has come to its end; one that was skipped, or failed on its way, has not judged all its models."""
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        if report.when == "teardown":
            told: list[Told] = getattr(report, "gradscope", [])
            self._told += told
            if report.nodeid in self._passed:  # where a model was judged, without the group that xdist appends
                self._over.add(told[0]["target"] if told else report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Writes the file; not only where there is a summary."""
        judged = {one["target"] for one in self._told}
        kept = self._before.without(
            target
            for target in self._before.targets
            if target in judged or {target, target.rpartition("#")[0]} & self._over
        )
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

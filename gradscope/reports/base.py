"""What a report is: it is given a trace and its diagnosis, and writes. It decides nothing."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol, TextIO, TypeAlias, runtime_checkable

from gradscope.findings import Diagnosis
from gradscope.reports.verdict_words import verdict_of
from gradscope.trace import Trace
from gradscope.verdict import Verdict

Destination: TypeAlias = Path | TextIO


@runtime_checkable
class Report(Protocol):
    """One format of `gradscope report --format`.

    Attributes:
        name: What stands after `--format`.
        suffix: Of its files, ".json"; by it `-o` tells the format.
        about: One line for `gradscope list reports`.
        to_stream: Whether it is text; a format that is not needs a file or a folder.
    """

    @property
    def name(self) -> str: ...
    @property
    def suffix(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def to_stream(self) -> bool: ...

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes to a stream, a file, or into an existing folder under names of its own choice.

        Returns:
            The files it wrote; none for a stream.
        """


@runtime_checkable
class GateReport(Report, Protocol):
    """A report that can also show what `gradscope check` has judged: `--output-format NAME`."""

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """Writes to a stream or a file; a folder is none.

        Returns:
            The files it wrote; none for a stream.
        """


class VerdictReport(ABC):
    """A format that is made for what the gate has judged; of a single trace it shows a verdict on one target."""

    __slots__ = ()

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes the trace as a verdict on one target."""
        return self.write_verdict(verdict_of(trace, diagnosis), destination)

    @abstractmethod
    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """As of `GateReport`."""


def write_text(text: str, destination: Destination, file_name: str) -> tuple[Path, ...]:
    """Writes `text` as UTF-8 to a file, as `file_name` into a folder, or to a stream."""
    if not isinstance(destination, Path):
        destination.write(text)
        return ()
    path = destination / file_name if destination.is_dir() else destination
    path.write_text(text, encoding="utf-8", newline="")
    return (path,)

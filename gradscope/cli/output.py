"""Who goes where: `--output-format NAME` and `-o FILE`, each as often as wanted.

    plan = placements(formats, files, quiet=quiet)     # before anything is trained: what cannot work is said at once
    deliver(plan, verdict)

A FILE goes to the requested format whose suffix it has; what is left, in order, to the requested formats that are
left (`--output-format gitlab -o report.json`); a FILE that is then left over gets the format that its suffix tells. A
format without a FILE goes to stdout. Text and annotations belong there, so they take no FILE whose suffix tells
another format: `--output-format text -o report.json` gives both.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from gradscope import plugins
from gradscope.cli.terminal import say
from gradscope.draft import replacing
from gradscope.errors import UsageError, nearest

if TYPE_CHECKING:
    from gradscope.reports.base import GateReport
    from gradscope.verdict import Verdict

_Command = TypeVar("_Command", bound=Callable[..., object])
TEXT, GITHUB = "text", "github"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is written where.

    Attributes:
        files: Formats and their files.
        streamed: Formats that go to stdout, in this order.
        quiet: Whether it is not said what was written.
    """

    files: "tuple[tuple[GateReport, Path], ...]"
    streamed: "tuple[GateReport, ...]"
    quiet: bool = False


def output_options(command: _Command) -> _Command:
    """Adds `--output-format`, `-o` and `--quiet`, as `formats`, `files` and `quiet`."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No text beside the files and formats that were asked for."),
        click.option(
            "-o", "--output", "files", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
            help="Write there; by its suffix, or in order, it gets one of the formats. Can be repeated.",
        ),
        click.option(
            "--output-format", "formats", metavar="NAME", multiple=True,
            help="text (default), json, junit, sarif, github, gitlab or markdown. Can be repeated.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def placements(formats: Sequence[str], files: Sequence[Path], *, quiet: bool, inputs: Sequence[Path] = ()) -> Plan:
    """What goes where; `inputs` are files that must not be written over, or that are written by other options.

    Raises:
        UsageError: A format is unknown, two would go to one place, or a file cannot be written.
    """
    installed = gate_reports()
    wanted = [_named(name, installed) for name in dict.fromkeys(formats)]
    placed, left = _placed(wanted, files, installed)
    for path in files:
        require_writable(path, "-o", inputs)
    _require_apart(placed)
    if not left and not quiet:
        left = [installed[TEXT]]
    loud = [one.name for one in left if one.name != GITHUB or TEXT not in {other.name for other in left}]
    if len(loud) > 1:
        raise UsageError(
            f"{' and '.join(f'`--output-format {name}`' for name in loud)} would both go to stdout; give all but one a "
            f"file: `-o FILE{installed[loud[-1]].suffix}`."
        )
    return Plan(tuple(placed), tuple(sorted(left, key=lambda one: one.name != TEXT)), quiet)


def gate_reports() -> "dict[str, GateReport]":
    """All installed formats that can show a verdict, by name."""
    from gradscope.reports.base import GateReport

    return {one.name: one for one in plugins.load("reports") if isinstance(one, GateReport)}


def _named(name: str, installed: "dict[str, GateReport]") -> "GateReport":
    if name not in installed:
        if name in {getattr(one, "name", None) for one in plugins.load("reports")}:
            raise UsageError(
                f"`--output-format {name}` shows a trace, not what the gate has judged; {', '.join(installed)} do."
            )
        raise UsageError(f"`--output-format {name}` is no format{nearest(name, installed)}")
    return installed[name]


def _placed(
    wanted: "Sequence[GateReport]", files: Sequence[Path], installed: "dict[str, GateReport]"
) -> "tuple[list[tuple[GateReport, Path]], list[GateReport]]":
    """The formats that have a file, and those that have none."""
    left = list(wanted)
    given: list[GateReport | None] = []
    for path in files:
        fitting = next((one for one in left if path.suffix.lower() == one.suffix), None)
        if fitting is not None:
            left.remove(fitting)
        given.append(fitting)
    for at, path in enumerate(files):  # a file whose suffix says nothing comes before one whose suffix does
        if given[at] is None and left and _by_suffix(path, installed) is None:
            given[at] = left.pop(0)
    placed = []
    for path, one in zip(files, given, strict=True):
        told = _by_suffix(path, installed)
        if one is None:
            one = next((other for other in left if told is None or other.name not in (TEXT, GITHUB)), None)
            if one is not None:
                left.remove(one)
        placed.append((one or _told(told, path, installed), path))
    return placed, left


def _by_suffix(path: Path, installed: "dict[str, GateReport]") -> "GateReport | None":
    return next((one for one in installed.values() if path.suffix.lower() == one.suffix), None)


def _told(one: "GateReport | None", path: Path, installed: "dict[str, GateReport]") -> "GateReport":
    if one is not None:
        return one
    suffixes = ", ".join(f"{one.suffix} ({one.name})" for one in installed.values())
    raise UsageError(
        f"`-o {path}`: which format? Say it with `--output-format NAME`, or by the file's suffix: {suffixes}."
    )


def require_writable(path: Path, option: str, inputs: Sequence[Path] = ()) -> None:
    """Raises a `UsageError` where `path`, written after `option`, cannot be written or must not."""
    written = f"`{option} {path}`"
    if option == "-o" and str(path) == "-":
        raise UsageError("`-o -`: leave it out; a format without a file goes to stdout.")
    if path.is_dir():
        raise UsageError(f"{written} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise UsageError(f"{written}: there is no folder {str(path.parent)!r}; create it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{written} cannot be written: no permission; name another file.")
    if any(_is_same_file(path, one) for one in inputs):
        raise UsageError(f"{written} is a file that is judged or read, or written by another option; name another one.")


def _is_same_file(path: Path, other: Path) -> bool:
    """Whether both are one file, or will be when they are written; a device may be named twice."""
    if path.exists() and other.exists():
        return path.is_file() and path.samefile(other)
    return os.path.normcase(os.path.realpath(path)) == os.path.normcase(os.path.realpath(other))


def _require_apart(placed: "Sequence[tuple[GateReport, Path]]") -> None:
    """Raises a `UsageError` where two formats have one file; a device such as /dev/null takes any number."""
    owner: dict[str, str] = {}
    for one, path in placed:
        if path.exists() and not path.is_file():
            continue
        real = os.path.normcase(os.path.realpath(path))
        if real in owner:
            both = owner[real] if owner[real] == one.name else f"{owner[real]} and {one.name}"
            raise UsageError(f"`-o {path}` is given twice, for {both}; give each its own file.")
        owner[real] = one.name


def deliver(plan: Plan, verdict: "Verdict") -> None:
    """Writes the files, each completely or not at all, and then to stdout."""
    for one, path in plan.files:
        try:
            if path.exists() and not path.is_file():  # a device: nothing could take its place
                one.write_verdict(verdict, path)
            else:
                with replacing(path) as draft:
                    one.write_verdict(verdict, draft)
        except BrokenPipeError:
            raise  # its reader has gone
        except OSError as error:  # which names the draft, or nothing
            raise UsageError(f"`-o {path}` cannot be written: {error.strerror}; name another file.") from error
        if not plan.quiet:
            say(f"wrote {path}")
    for one in plan.streamed:
        with written_as(None if one.name == TEXT else "utf-8"):
            one.write_verdict(verdict, sys.stdout)
            sys.stdout.flush()


@contextmanager
def written_as(name: str | None) -> Iterator[None]:
    """Makes stdout write in that encoding: what a program reads must not depend on the locale."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    before = getattr(sys.stdout, "encoding", None)
    if name is None or reconfigure is None:
        yield
        return
    reconfigure(encoding=name)
    try:
        yield
    finally:
        reconfigure(encoding=before)

"""`gradscope report`: what a recorded trace shows, in any format."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from gradscope import plugins
from gradscope.cli.terminal import say
from gradscope.config import FAIL_ON, NEVER
from gradscope.errors import TraceError, UsageError, nearest
from gradscope.findings import Severity

if TYPE_CHECKING:
    from gradscope.reports.base import Report
    from gradscope.trace import Trace


@click.command("report")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--format", "name", metavar="NAME", help="text (default), html, json, csv, png or svg; `list reports` shows all."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE_OR_DIR", help="Write there.")
@click.option("--view", "views", metavar="NAME", multiple=True, help="findings (default), budget or theory.")
@click.option(
    "--fail-on",
    type=click.Choice(FAIL_ON),
    default=Severity.ERROR.value,
    show_default=True,
    help="Lowest severity that makes the exit code 1.",
)
def report(trace: Path, name: str | None, output: Path | None, views: tuple[str, ...], fail_on: str) -> int:
    """Judge a recorded TRACE and show what it holds.

    By all rules with their own thresholds: [tool.gradscope] is for `gradscope check TRACE`.
    """
    from gradscope.gate import Policy, judge
    from gradscope.reports.base import VerdictReport
    from gradscope.reports.views import FINDINGS, view_of
    from gradscope.rules.engine import default_rules
    from gradscope.storage import read_trace
    from gradscope.verdict import Verdict

    if len(views) > 1:
        raise UsageError(f"`--view` shows one at a time, not {' and '.join(views)}; run the command once for each.")
    view = views[0] if views else FINDINGS
    if name is not None:
        view_of(view, name)  # a format that the view lacks is refused before it is asked where to write it
    chosen = find_report(name, output)
    instead = view_of(view, chosen.name)
    if output is not None and output.exists() and output.samefile(trace):
        raise UsageError(f"`-o {output}` is the trace itself; name another file.")
    recording = read_trace(trace)
    refuse_empty(recording, trace)
    judged = judge(trace.name, [recording], Policy(rules=default_rules()))  # under the name that the gate gives it
    verdict = Verdict(targets=(judged,), fail_on=None if fail_on == NEVER else Severity(fail_on))
    destination = sys.stdout if output is None else output
    if instead is not None:
        written = instead.write(recording, chosen.name, destination)
    elif isinstance(chosen, VerdictReport):
        written = chosen.write_verdict(verdict, destination)
    else:
        written = chosen.write(recording, judged.diagnosis, destination)
    for path in written:
        say(f"wrote {path}")
    return verdict.exit_code


def find_report(name: str | None, output: Path | None) -> "Report":
    """The report of that name; without one, the one whose suffix `output` has, else text.

    Raises:
        UsageError: There is none of that name, or it cannot go where it should.
    """
    installed = cast("tuple[Report, ...]", plugins.load("reports"))
    by_name = {one.name: one for one in installed}
    if name is None:
        fitting = [one.name for one in installed if output is not None and output.suffix == one.suffix]
        name = fitting[0] if fitting else "text"
    if name not in by_name:
        raise UsageError(f"`--format {name}` is no report{nearest(name, by_name)}")
    chosen = by_name[name]
    if output is None and not chosen.to_stream:
        raise UsageError(f"`--format {name}` writes files; say where: `-o FOLDER` or `-o FILE{chosen.suffix}`.")
    return chosen


def refuse_empty(recording: "Trace", path: Path) -> None:
    """A trace in which nothing was recorded is no healthy trace.

    Raises:
        TraceError: It holds no step or no site.
    """
    if not len(recording.steps) or not recording.sites:
        lacks = "step" if not len(recording.steps) else "site"
        raise TraceError(
            f"{str(path)!r} holds no recorded {lacks}; was the training loop run, and the model that was attached used?"
        )

"""`gradscope diff`: what differs between two recorded runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gradscope.cli.output import require_writable, written_as
from gradscope.cli.report import refuse_empty
from gradscope.cli.terminal import say, stdout
from gradscope.draft import replacing
from gradscope.errors import UsageError, nearest
from gradscope.findings import Severity

if TYPE_CHECKING:
    from gradscope.difference import Difference, Recorded
    from gradscope.reports.difference_text import DifferenceView

FILE_WIDTH = 100
SUFFIXES: Final = {"text": ".txt", "json": ".json", "html": ".html"}
_FAIL_ON_NEW = "--fail-on-new"


class _Diff(click.Command):
    """A command one of whose options may go without its value, also in front of a file's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        written = [*args, ""]
        for at, (word, after) in enumerate(zip(args, written[1:], strict=True)):
            if word == _FAIL_ON_NEW and after not in list(Severity):
                args = [*args[:at], f"{_FAIL_ON_NEW}={Severity.WARNING.value}", *args[at + 1 :]]
        return super().parse_args(ctx, args)


@click.command("diff", cls=_Diff)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--format", "name", metavar="NAME", help="text (default), json or html.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there.")
@click.option(
    _FAIL_ON_NEW,
    type=click.Choice([severity.value for severity in Severity]),
    help="Exit with 1 where B has a finding of this severity or a higher one, and A has not.  [alone: warning]",
)
def diff(a: Path, b: Path, name: str | None, output: Path | None, fail_on_new: str | None) -> int:
    """Show what differs in trace B from trace A.

    Findings that appeared, vanished, moved to another module or time, or changed severity; layers whose gain, share of
    dead units or update ratio is markedly another. Modules are paired by name.

    Exit codes: 0; 1 with --fail-on-new where a finding is new; 2 misuse, unreadable input, or nothing recorded.
    """
    from gradscope.difference import difference

    form = _format(name, output)
    if output is not None:
        require_writable(output, "-o", [a, b])
    found = difference(_recorded(a), _recorded(b))
    _deliver(found, form, output)
    new = found.new(Severity(fail_on_new)) if fail_on_new is not None else ()
    return 1 if new else 0


def _format(name: str | None, output: Path | None) -> str:
    """The format of that name; without one, the one whose suffix `output` has, else text.

    Raises:
        UsageError: There is none of that name.
    """
    if name is None:
        fitting = [form for form, suffix in SUFFIXES.items() if output is not None and output.suffix == suffix]
        return fitting[0] if fitting else "text"
    if name not in SUFFIXES:
        raise UsageError(f"`--format {name}` shows no difference{nearest(name, SUFFIXES)}")
    return name


def _recorded(path: Path) -> "Recorded":
    from gradscope.difference import Recorded
    from gradscope.gate import Policy, judge
    from gradscope.rules.engine import default_rules
    from gradscope.storage import read_trace

    trace = read_trace(path)
    refuse_empty(trace, path)
    judged = judge(path.name, [trace], Policy(rules=default_rules()))
    return Recorded(str(path), trace, judged.diagnosis)


def _deliver(found: "Difference", form: str, output: Path | None) -> None:
    """Writes it whole or not at all; text to a terminal with colour."""
    if output is None:
        console = stdout()
        if form == "text" and console.is_terminal:
            console.print(_view(found))
            return
        with written_as(None if form == "text" else "utf-8"):
            sys.stdout.write(document(found, form, console.width))
            sys.stdout.flush()
        return
    text = document(found, form)
    if output.exists() and not output.is_file():  # a device: nothing could take its place
        output.write_text(text, encoding="utf-8")
    else:
        with replacing(output) as draft:
            draft.write_text(text, encoding="utf-8", newline="")
    say(f"wrote {output}")


def document(found: "Difference", form: str, width: int = FILE_WIDTH) -> str:
    """The whole text in a format; `width` is of text, in characters."""
    if form == "json":
        from gradscope.reports.jsonfile import as_json

        return as_json(found.to_dict())
    if form == "html":
        from gradscope.reports.difference_page import difference_page

        return difference_page(found)
    from gradscope.reports.gate_text import plain

    return plain(_view(found), width)


def _view(found: "Difference") -> "DifferenceView":
    from gradscope.reports.difference_text import DifferenceView

    return DifferenceView(found)

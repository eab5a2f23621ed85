"""`gradscope rule`: what a finding means, how it is measured, what to try."""

import re
from dataclasses import fields, is_dataclass

import click

from gradscope import plugins
from gradscope.cli.terminal import stdout
from gradscope.errors import UsageError, nearest


@click.command("rule")
@click.argument("names", metavar="CODE|NAME…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Explain all rules.")
def rule(names: tuple[str, ...], every: bool) -> None:
    """Explain a rule: meaning, measurement, remedy."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if every == bool(names):
        raise UsageError("`gradscope rule` takes a code or a name, such as `gradscope rule GS101`, or `--all`.")
    console = stdout()
    installed = plugins.load("rules")
    for index, one in enumerate(installed if every else [find(name, installed) for name in names]):
        if index:
            console.print()
        console.print(Text.assemble((str(getattr(one, "code", "")), "bold cyan"), f" {getattr(one, 'name', '')}"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", max_width=22)
        grid.add_column()
        for label, text in sections(explanation(one)):
            if label:
                grid.add_row(label, Text(text))
            else:
                console.print(Padding(Text(text), (0, 0, 1, 2)))
        if thresholds := _thresholds(one):
            grid.add_row("Thresholds", Text(thresholds))
        console.print(Padding(grid, (0, 0, 0, 2)))


def sections(docstring: str) -> list[tuple[str, str]]:
    """The paragraphs of a docstring, each on one line, with the label that it starts with, if any.

    A line that is indented continues the one before; so does a line that starts no new paragraph.
    """
    found: list[tuple[str, str]] = []
    fresh = True
    for line in docstring.splitlines():
        labelled = re.match(r"([A-Z][^:.]{2,30}): +(?=\S)", line)
        if not line.strip():
            fresh = True
        elif labelled:
            found.append((labelled[1], line[labelled.end() :].strip()))
            fresh = False
        elif fresh:
            found.append(("", line.strip()))
            fresh = False
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def find(name: str, installed: tuple[object, ...]) -> object:
    """The rule with that code, in any case, or name.

    Raises:
        UsageError: There is none.
    """
    for one in installed:
        if name.upper() == getattr(one, "code", None) or name.lower() == getattr(one, "name", None):
            return one
    known = [str(word) for one in installed for word in (getattr(one, "code", ""), getattr(one, "name", "")) if word]
    close = nearest(name.upper(), known) if re.match(r"gs\d", name, re.IGNORECASE) else nearest(name, known)
    way_out = close if close.startswith("; did") else "; `gradscope list rules` shows all."
    raise UsageError(f"{name!r} is no rule{way_out}")


def explanation(one: object) -> str:
    """The rule's own text."""
    explain = getattr(one, "explanation", None)
    return str(explain()) if callable(explain) else ""


def _thresholds(one: object) -> str:
    if not is_dataclass(one):
        return ""
    return ", ".join(f"{f.name} = {getattr(one, f.name, f.default)!r}" for f in fields(one))

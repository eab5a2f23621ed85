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
    from rich.text import Text

    if every == bool(names):
        raise UsageError("`gradscope rule` takes a code or a name, such as `gradscope rule GS101`, or `--all`.")
    console = stdout()
    installed = plugins.load("rules")
    for index, one in enumerate(installed if every else [find(name, installed) for name in names]):
        if index:
            console.print()
        console.print(Text.assemble((str(getattr(one, "code", "")), "bold cyan"), f" {getattr(one, 'name', '')}"))
        text = Text(explanation(one))
        text.highlight_regex(re.compile(r"^[A-Z][\w ]+:", re.MULTILINE), "bold")
        console.print(Padding(text, (0, 0, 0, 2)))
        if thresholds := _thresholds(one):
            console.print(Padding(Text(f"Thresholds: {thresholds}", "dim"), (0, 0, 0, 2)))


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

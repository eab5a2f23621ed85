"""`gradscope rule`: what a finding means, how it is measured, what to try; for people and for programs."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gradscope import plugins
from gradscope.cli.terminal import stdout
from gradscope.errors import UsageError, nearest
from gradscope.explanations import explanation, sections
from gradscope.findings import Json, finite
from gradscope.verdict import GAIN_DRIFT

if TYPE_CHECKING:
    from rich.console import RenderableType

RULES_SCHEMA = "gradscope/rules/1"
_FORMATS = ("text", "json")
_NO_RULE = "The gate finds it, no rule: `gradscope check --baseline FILE --max-drift DECADES`."
# what the last word of a threshold's name says of its unit
_UNITS = {
    "fraction": "fraction", "share": "fraction", "steps": "steps", "layers": "layers", "decades": "decades",
    "ratio": "ratio", "gain": "factor", "factor": "factor", "scale": "factor", "growth": "factor",
}  # fmt: skip


@click.command("rule")
@click.argument("names", metavar="CODE|NAME…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Explain all rules.")
@click.option("--output-format", "form", type=click.Choice(_FORMATS), default=_FORMATS[0], show_default=True)
def rule(names: tuple[str, ...], every: bool, form: str) -> None:
    """Explain a rule: meaning, measurement, remedy."""
    if every == bool(names):
        raise UsageError("`gradscope rule` takes a code or a name, such as `gradscope rule GS101`, or `--all`.")
    known = plugins.load("rules")
    chosen = known if every else [find(name, known) for name in dict.fromkeys(names)]
    if form == "json":
        document = {"schema": RULES_SCHEMA, "rules": [entry(one) for one in chosen]}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
        return
    console = stdout()
    for index, one in enumerate(chosen):
        if index:
            console.print()
        for part in _parts(one):
            console.print(part)


class _Drift:
    """The gradient's gain in a layer is not the baseline's any more."""

    code = name = GAIN_DRIFT

    @classmethod
    def explanation(cls) -> str:
        """As of a rule."""
        return cls.__doc__ or ""


def entry(one: object) -> dict[str, Json]:
    """A rule for programs, or what the gate finds without one."""
    paragraphs = sections(explanation(one))
    return {
        "code": str(getattr(one, "code", "")),
        "name": str(getattr(one, "name", "")),
        "summary": next((text for label, text in paragraphs if not label), ""),
        "installed": one is not _Drift,
        "sections": {label: text for label, text in paragraphs if label},
        "thresholds": list[Json](_thresholds(one)),
        "reads": list[Json](sorted(str(quantity) for quantity in getattr(one, "reads", ()))),
    }


def _parts(one: object) -> "Iterator[RenderableType]":
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    code, name = getattr(one, "code", ""), getattr(one, "name", "")
    yield Text.assemble((str(code), "bold cyan"), f" {name}" * (name != code))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", max_width=22)
    grid.add_column()
    for label, text in sections(explanation(one)):
        if label:
            grid.add_row(label, Text(text))
        else:
            yield Padding(Text(text), (0, 0, 1, 2))
    if thresholds := _thresholds(one):
        grid.add_row("Thresholds", Text(", ".join(f"{one['name']} = {one['default']!r}" for one in thresholds)))
    yield Padding(Text(_NO_RULE, "dim") if one is _Drift else grid, (0, 0, 0, 2))


def find(name: str, installed: tuple[object, ...]) -> object:
    """The rule with that code, in any case, or name.

    Raises:
        UsageError: There is none.
    """
    for one in installed:
        if name.upper() == getattr(one, "code", None) or name.lower() == getattr(one, "name", None):
            return one
    if name == GAIN_DRIFT:
        return _Drift
    words = [str(word) for one in installed for word in (getattr(one, "code", ""), getattr(one, "name", "")) if word]
    close = nearest(name.upper(), words) if re.match(r"gs\d", name, re.IGNORECASE) else nearest(name, words)
    way_out = close if close.startswith("; did") else "; `gradscope list rules` shows all."
    raise UsageError(f"{name!r} is no rule{way_out}")


def _thresholds(one: object) -> list[dict[str, Json]]:
    """As they are written under [tool.gradscope.rules.NAME]."""
    from gradscope.thresholds import thresholds_of

    found: list[dict[str, Json]] = []
    for field in thresholds_of(one):
        default = getattr(one, field.name, None)
        unit = _UNITS.get(field.name.rpartition("_")[2])
        found.append(
            {
                "name": field.name.replace("_", "-"),
                "default": finite(default) if isinstance(default, int | float | str) else None,
                "type": type(default).__name__,
                **({"unit": unit} if unit else {}),
            }
        )
    return found

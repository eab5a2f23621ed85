"""`gradscope config`: the effective settings, and where each comes from."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import click

from gradscope.cli.settings import settings_of, settings_options
from gradscope.cli.terminal import stdout
from gradscope.config import DEFAULT, CheckTarget, Config
from gradscope.findings import Json
from gradscope.toml_table import written

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from gradscope.rules.base import Rule

CONFIG_SCHEMA = "gradscope/config/1"
_FORMATS = ("text", "json")
_TARGET_KEYS = tuple(one.name for one in fields(CheckTarget) if one.name != "name")


@click.command("config")
@settings_options
@click.option("--output-format", "form", type=click.Choice(_FORMATS), default=_FORMATS[0], show_default=True)
@click.pass_context
def config(ctx: click.Context, *, form: str) -> None:
    """Show the settings that hold here, and where each comes from."""
    from rich.text import Text

    effective = settings_of(ctx)
    if form == "json":
        click.echo(json.dumps(document(effective), indent=2, ensure_ascii=False, allow_nan=False))
        return
    console = stdout()
    none = f"no [tool.gradscope] from {effective.root} upwards: all settings are defaults"
    console.print(Text(none if effective.file is None else str(effective.file), "bold"), soft_wrap=True)
    for part in parts(effective):
        console.print()
        console.print(part)


def document(config: Config) -> dict[str, Json]:
    """All settings with their origins, thresholds that nobody changed among them."""
    return {
        "schema": CONFIG_SCHEMA,
        "file": None if config.file is None else str(config.file),
        "settings": {key: {"value": value, "origin": config.origin(key)} for key, value in scalars(config)},
        "rules": {
            rule.name: {
                "code": rule.code,
                "asked": not why,
                "thresholds": {
                    key: {"value": value, "default": default, "origin": config.origin(f"rules.{rule.name}.{key}")}
                    for key, value, default in thresholds(rule, config)
                },
            }
            for rule, why in asked(config)
        },
        "suppress": [
            {
                "rule": one.rule,
                "module": one.module,
                "target": one.target,
                "reason": one.reason,
                "origin": config.origin(f"suppress.{index}"),
            }
            for index, one in enumerate(config.suppress, 1)
        ],
        "check": [
            {
                "name": target.name,
                **{
                    key: {"value": getattr(target, key), "origin": config.origin(f"check.{target.name}.{key}")}
                    for key in _TARGET_KEYS
                },
            }
            for target in config.checks
        ],
    }


def scalars(config: Config) -> tuple[tuple[str, Json], ...]:
    """The settings of [tool.gradscope] itself, in the order in which they are read."""
    return (
        ("select", list[Json](config.select)),
        ("ignore", list[Json](config.ignore)),
        ("fail-on", config.fails_on),
        ("baseline", None if config.baseline is None else str(config.baseline)),
        ("max-drift", config.max_drift),
    )


def asked(config: Config) -> "Iterator[tuple[Rule, str]]":
    """Every installed rule, and why it is not asked; "" where it is."""
    from gradscope.rules.engine import default_rules
    from gradscope.rules.selection import closest, selected

    for rule in default_rules():
        if selected([rule], select=config.select, ignore=config.ignore):
            yield rule, ""
        else:
            ignored = closest(config.ignore, rule)
            yield rule, "not selected" if ignored is None else f"ignored: {ignored}"


def thresholds(rule: "Rule", config: Config) -> Iterator[tuple[str, float, float]]:
    """Each threshold as it is written, its value and its default."""
    from gradscope.thresholds import thresholds_of

    for one in thresholds_of(rule):
        default = getattr(rule, one.name)
        yield one.name.replace("_", "-"), config.rules.get(rule.name, {}).get(one.name, default), default


def parts(config: Config) -> "Iterator[RenderableType]":
    """What the terminal shows below the name of the file, paragraph by paragraph."""
    from rich.text import Text

    shown = dict(scalars(config))
    if config.baseline is not None and config.baseline.is_relative_to(config.root):
        shown["baseline"] = config.baseline.relative_to(config.root).as_posix()  # the root is named above
    yield _grid([(Text(key, "cyan"), _value(value), _origin(config.origin(key))) for key, value in shown.items()])
    yield _grid(list(_rule_rows(config)), "Rules")
    if rows := list(_threshold_rows(config)):
        yield _grid(rows, "Thresholds")
    if rows := list(_suppression_rows(config)):
        yield _grid(rows, "Suppressed")
    for target in config.checks:
        rows = [
            (Text(key, "cyan"), _value(getattr(target, key)), _origin(config.origin(f"check.{target.name}.{key}")))
            for key in _TARGET_KEYS
        ]
        yield _grid(rows, f"Target {target.name}")


def _rule_rows(config: Config) -> "Iterator[Sequence[Text]]":
    from rich.text import Text

    for rule, why in asked(config):
        dim = "dim" if why else ""
        yield Text(rule.code, dim or "cyan"), Text(rule.name, dim), Text(why or "asked", dim or "green")


def _threshold_rows(config: Config) -> "Iterator[Sequence[Text]]":
    from rich.text import Text

    for rule, _ in asked(config):
        for key, value, default in thresholds(rule, config):
            origin = config.origin(f"rules.{rule.name}.{key}")
            if origin != DEFAULT:
                name = Text(f"{rule.name}.{key}", "cyan")
                yield name, Text(written(value)), Text(f"default {written(default)}", "dim"), _origin(origin)


def _suppression_rows(config: Config) -> "Iterator[Sequence[Text]]":
    from rich.text import Text

    for one in config.suppress:
        where = "every target" if one.target == "*" else one.target
        yield Text(one.rule, "cyan"), Text(one.module or "(model)"), Text(where, "dim"), Text(one.reason, "italic")


def _grid(rows: "Sequence[Sequence[Text]]", title: str = "") -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for _ in rows[0]:
        grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    indented = Padding(grid, (0, 0, 0, 2), expand=False)
    return Group(Text(title, "bold"), indented) if title else indented


def _value(value: Json) -> "Text":
    from rich.text import Text

    return Text("none", "dim") if value is None else Text(written(value))


def _origin(origin: str) -> "Text":
    """Where it comes from; of the file, which is named above all, only the table."""
    from rich.text import Text

    if origin == DEFAULT:
        return Text(origin, "dim")
    _, bracket, table = origin.partition(" [")
    return Text(f"[{table}", "green") if bracket else Text(origin, "yellow")

"""The options that override `[tool.gradscope]`, the same for every command that reads it.

@click.command()
@settings_options
@click.pass_context
def check(ctx): config = settings_of(ctx)
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

from gradscope.config import COMMAND_LINE, FAIL_ON, Config, overridden, read_config
from gradscope.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., object])
_GIVEN = "gradscope.settings"


def settings_options(command: _Command) -> _Command:
    """Adds `--config`, `--select`, `--ignore`, `--fail-on`, `--baseline`, `--no-baseline` and `--max-drift`."""
    for option in (
        click.option(
            "--max-drift", metavar="DECADES", type=float, expose_value=False, callback=_remember,
            help="Fail where a layer's gain is this far from the baseline's.",
        ),
        click.option(
            "--no-baseline", is_flag=True, expose_value=False, callback=_remember,
            help="Hold nothing against the baseline that the settings name.",
        ),
        click.option(
            "--baseline", metavar="FILE", type=click.Path(path_type=Path), expose_value=False, callback=_remember,
            help="Findings that this file holds do not fail.",
        ),
        click.option(
            "--fail-on", type=click.Choice(FAIL_ON), expose_value=False, callback=_remember,
            help="Lowest severity that makes the exit code 1.  [default: error]",
        ),
        click.option(
            "--ignore", metavar="CODES", multiple=True, expose_value=False, callback=_remember,
            help="Rules not to ask; the longer beginning wins, then this.",
        ),
        click.option(
            "--select", metavar="CODES", multiple=True, expose_value=False, callback=_remember,
            help="Rules to ask: names or beginnings of codes, with commas between or repeated.",
        ),
        click.option(
            "--config", metavar="FILE", type=click.Path(path_type=Path), expose_value=False, callback=_remember,
            help="Settings, in place of the nearest pyproject.toml with [tool.gradscope].",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def settings_of(ctx: click.Context) -> Config:
    """The effective settings of a command that has `settings_options`.

    Raises:
        UsageError: The file, or what overrides it, is wrong.
    """
    given = ctx.meta.get(_GIVEN, {})
    config = read_config(given.get("config"))
    if given.get("no_baseline"):
        if given.get("baseline") is not None:
            raise UsageError(f"`--baseline {given['baseline']}` and `--no-baseline` exclude each other; leave one out.")
        origins = {**config.origins, **dict.fromkeys(("baseline", "max-drift"), COMMAND_LINE)}
        config = replace(config, baseline=None, max_drift=None, origins=origins)
    return overridden(
        config,
        select=_listed(given.get("select", ())),
        ignore=_listed(given.get("ignore", ())),
        fail_on=given.get("fail_on"),
        baseline=given.get("baseline"),
        max_drift=given.get("max_drift"),
    )


def _remember(ctx: click.Context, option: click.Parameter, value: object) -> None:
    ctx.meta.setdefault(_GIVEN, {})[option.name] = value


def _listed(written: tuple[str, ...]) -> tuple[str, ...] | None:
    """`("GS1,GS3", "GS5")` as three words; None where nothing was written."""
    return tuple(word.strip() for text in written for word in text.split(",")) if written else None

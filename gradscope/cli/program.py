"""All commands under one name, and the one place where an error becomes a line on stderr and an exit code.

Nothing heavy is imported before a command needs it: `gradscope --help` costs neither torch nor matplotlib.
"""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from gradscope.cli.attach import attach
from gradscope.cli.check import check
from gradscope.cli.config import config
from gradscope.cli.diff import diff
from gradscope.cli.list import list_
from gradscope.cli.live import live
from gradscope.cli.merge import merge
from gradscope.cli.report import report
from gradscope.cli.rule import rule
from gradscope.cli.run import run
from gradscope.cli.terminal import open_streams, say, tolerate_any_encoding
from gradscope.errors import GradscopeError, nearest

MISUSE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class Verbs(click.Group):
    """The group of commands; for a misspelt one it names the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"{args[0]!r} is no command{nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def _remember_debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.ensure_object(set).add("debug")


def _debug_option() -> click.Option:
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_remember_debug, help="Show the traceback of an error."
    )


@click.group(
    cls=Verbs,
    params=[_debug_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "--version", package_name="gradscope")
def gradscope() -> None:
    """Finds the layer, the step and the moment of the sequence at which a gradient goes wrong.

    Exit codes: 0 healthy or as expected; 1 findings, or a scenario not as expected; 2 misuse, unreadable input, or
    nothing recorded.
    """


for command in (run, attach, live, check, report, diff, merge, rule, list_, config):
    command.params.append(_debug_option())  # so that it may stand before the command or after
    gradscope.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line with `arguments`, by default those of the process; returns the exit code."""
    switches: set[str] = set()
    open_streams()
    tolerate_any_encoding(sys.stdout, sys.stderr)
    try:
        code = gradscope.main(
            None if arguments is None else list(arguments), prog_name="gradscope", standalone_mode=False, obj=switches
        )
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has gone: nothing more to say, not even when Python flushes stdout at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # rich ends the program by itself, with 1
            return BROKEN_PIPE
        raise
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        return MISUSE
    except Exception as error:
        if "debug" in switches:
            traceback.print_exc()
        say(_one_line(error))
        return MISUSE
    return code if isinstance(code, int) else 0


def _one_line(error: Exception) -> str:
    """What went wrong, for a person; an error that nobody foresaw says so."""
    if isinstance(error, GradscopeError):
        said = str(error)
    elif isinstance(error, click.ClickException):
        said = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        said = f"{error.filename!r}: {error.strerror}" if error.filename else error.strerror
    else:
        said = f"an error that should not happen: {error!r}; `--debug` shows where."
    return " ".join(said.split())

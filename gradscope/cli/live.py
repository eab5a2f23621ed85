"""`gradscope live`: a training that another process runs, watched through the trace that it writes."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from gradscope.cli.keys import keys
from gradscope.errors import UsageError

if TYPE_CHECKING:
    from gradscope.live import Watcher
    from gradscope.moment import Moment

_LOOKS_S = 0.25  # between two looks
_FRAMES_S = 0.5
_PROGRESS_S = 10.0  # between two lines about nothing but progress


@click.command("live")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--web", is_flag=True, help="Show it in a browser instead; the address is printed.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="With --web: listen there, not anywhere free.")
@click.option("--open", "opens", is_flag=True, help="With --web: open the address.")
@click.option(
    "--until-end/--stay",
    default=None,
    help="Leave when the training has ended; by default only where the output is no terminal.",
)
@click.option("--lines", is_flag=True, help="One line for each change, at a terminal too.")
@click.option("--attached", hidden=True, metavar="PID:INODE", help="Of the process that starts this one; see LiveView.")
def live(
    trace: Path,
    *,
    web: bool,
    port: int | None,
    opens: bool,
    until_end: bool | None,
    lines: bool,
    attached: str | None,
) -> int:
    """Watch a training that runs, through the TRACE that it writes.

    From another process: the worst layers, loss, steps a second, and the findings as they appear. TRACE need not exist
    yet; if the training dies that is said, and what it wrote is still shown. At a terminal q ends the view; elsewhere
    each change is one line.
    """
    from gradscope.live import Watcher

    if not web and (port is not None or opens):
        raise UsageError(f"`{'--open' if opens else f'--port {port}'}` is for the page; add `--web`.")
    signal.signal(signal.SIGTERM, _leave)  # so that a terminal is left as it was
    owner, ignore = (int(part) for part in attached.split(":")) if attached else (0, None)
    with Watcher(trace, ignore=ignore) as watcher:
        if web:
            from gradscope.live_server import serve

            serve(watcher, port=port or 0, opens=opens, until_end=bool(until_end))
        elif not lines and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            _frames(watcher, until_end=bool(until_end), owner=owner)
        else:
            _lines(watcher, until_end=not sys.stdout.isatty() if until_end is None else until_end, owner=owner)
    return 0


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _is_orphan(owner: int) -> bool:
    """Whether the process that started this one, if it was one, has gone."""
    return bool(owner) and os.getppid() != owner


def _frames(watcher: "Watcher", *, until_end: bool, owner: int) -> None:
    """One frame, drawn again and again; the last stays."""
    from rich.live import Live

    from gradscope.cli.terminal import stdout
    from gradscope.reports.live_text import LiveFrame

    hint = "q ends the view, not the training" if sys.stdin.isatty() else ""
    with keys() as pressed, Live(console=stdout(), auto_refresh=False, transient=False) as screen:
        drawn = float("-inf")
        moment = watcher.look()
        while True:
            if time.monotonic() - drawn >= _FRAMES_S:
                drawn = time.monotonic()
                screen.update(LiveFrame(moment, hint), refresh=True)
            if (until_end and moment.is_settled) or _is_orphan(owner) or pressed(_LOOKS_S) in ("q", "Q"):
                break
            moment = watcher.look()
        screen.update(LiveFrame(moment), refresh=True)


def _lines(watcher: "Watcher", *, until_end: bool, owner: int) -> None:
    """One line for each change."""
    from gradscope.reports.live_text import changes, progress

    before: Moment | None = None
    said, told = time.monotonic(), 0
    while True:
        moment = watcher.look()
        lines = list(changes(before, moment))
        if not lines and moment.recorded != told and time.monotonic() - said > _PROGRESS_S:
            lines = [progress(moment)]
        for line in lines:
            click.echo(line)
        if lines:
            said, told = time.monotonic(), moment.recorded
            sys.stdout.flush()
        before = moment
        if (until_end and moment.is_settled) or _is_orphan(owner):
            break
        time.sleep(_LOOKS_S)

"""`gradscope attach`: a training script as it is, recorded."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradscope import script as scripts
from gradscope.awaited import when_imported
from gradscope.cli.live_view import LiveView, TemporaryTrace
from gradscope.cli.terminal import leave_encoding_alone, say, tolerate_any_encoding
from gradscope.config import FAIL_ON, NEVER
from gradscope.errors import UsageError
from gradscope.findings import Severity
from gradscope.schedule import Every

if TYPE_CHECKING:
    from gradscope.findings import Diagnosis
    from gradscope.onlooker import Onlooker
    from gradscope.trace import Trace

NOTHING_RECORDED = 2


@click.command("attach", context_settings={"allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is the name of a module, as after `python -m`.")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="FILE", help="Stream the trace to this file.")
@click.option("--every", type=int, default=1, show_default=True, metavar="N", help="Record every N-th step.")
@click.option(
    "--fail-on",
    type=click.Choice(FAIL_ON),
    help="Exit with 1 on findings of this severity, if the script itself succeeds.",
)
@click.option("--live", is_flag=True, help="Show on stderr how the training goes, while it runs.")
@click.option("-q", "--quiet", is_flag=True, help="No report at the end.")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def attach(
    *,
    is_module: bool,
    out: Path | None,
    every: int,
    fail_on: str | None,
    live: bool,
    quiet: bool,
    script: str,
    arguments: tuple[str, ...],
) -> int:
    """Run a training SCRIPT as Python would, and record it.

    What follows SCRIPT is the script's. Its output, its numbers and its exit code are those that it has without; the
    report comes after it, on stderr. Exit code 2: the script succeeded, but nothing could be recorded.
    """
    Every(every)
    recording = _Recording(None if out is None else _destination(out), every, live=live)
    scripts.die_of_interrupt_at_exit()
    when_imported("torch", recording.begin)
    scripts.before_exec(lambda: _say_goodbye(recording, script, quiet=quiet))
    leave_encoding_alone()
    outcome = scripts.run(script, arguments, is_module=is_module)
    if os.getpid() != recording.process:
        return outcome.code  # a child that the script forked and let go on
    sys.stdout.flush()
    tolerate_any_encoding(sys.stdout, sys.stderr)
    diagnoses = recording.conclude(script, outcome.error, quiet=quiet)
    if isinstance(outcome.error, KeyboardInterrupt):
        scripts.interrupted()
    if outcome.code:
        return outcome.code
    if not diagnoses:
        return NOTHING_RECORDED
    worst = [d.worst for d in diagnoses if d.worst is not None]
    return int(fail_on not in (None, NEVER) and any(severity.reaches(Severity(fail_on)) for severity in worst))


def _say_goodbye(recording: "_Recording", script: str, *, quiet: bool) -> None:
    """The script is about to put another program into its place."""
    if os.getpid() == recording.process:
        sys.stdout.flush()
        _tell(f"{script} replaced itself by another program (os.exec), which is not recorded.")
        recording.conclude(script, None, quiet=quiet)


def _destination(out: Path) -> Path:
    """`out`, wherever the script goes.

    Raises:
        UsageError: It can be no file.
    """
    path = out.absolute()
    if path.is_dir():
        raise UsageError(f"`--out {out}` is a folder; name a file in it, such as `--out {out / 'run.h5'}`.")
    if not path.parent.is_dir():
        raise UsageError(f"`--out {out}`: there is no folder {str(out.parent)!r}.")
    return path


class _Recording:
    """What is recorded of a script, from the moment at which it loads torch."""

    def __init__(self, out: Path | None, every: int, *, live: bool) -> None:
        self.process = os.getpid()
        self._temporary = TemporaryTrace() if live and out is None else None
        self._out = out if self._temporary is None else self._temporary.path
        self._live = live
        self._view: LiveView | None = None
        self._every = every
        self._onlooker: Onlooker | None = None

    def begin(self) -> None:
        """Torch has been imported."""
        from gradscope.onlooker import Onlooker

        self._onlooker = Onlooker(out=self._out, every=self._every)
        self._onlooker.begin()
        if self._live and self._out is not None and _prints():
            self._view = LiveView(_written_by_this(self._out))

    def conclude(self, script: str, error: BaseException | None, *, quiet: bool) -> "list[Diagnosis]":
        """Ends it and shows what was recorded; a diagnosis for each model, none if nothing was."""
        try:
            return self._concluded(script, error, quiet=quiet)
        finally:
            if self._temporary is not None:
                self._temporary.remove()

    def _concluded(self, script: str, error: BaseException | None, *, quiet: bool) -> "list[Diagnosis]":
        onlooker = self._onlooker
        if onlooker is None:
            _tell(f"nothing was recorded: {script} never imported torch.")
            return []
        from gradscope.rules.engine import diagnose

        onlooker.end(error)
        recorded = [(root, root.trace) for root in onlooker.roots if root.trace is not None and len(root.trace.steps)]
        why_nothing = onlooker.why_nothing(script) if not recorded else ""  # before the view counts as a child
        if self._view is not None:
            self._view.close(is_written=bool(recorded))
        for note in onlooker.notes:
            _tell(note if note.endswith(".") else f"{note}.")
        if not recorded:
            _tell(f"nothing was recorded: {why_nothing}")
        diagnoses = []
        for root, trace in recorded:
            diagnoses.append(diagnose(trace))
            if not quiet:
                _show(trace, diagnoses[-1], root.name if len(recorded) > 1 else "")
            if root.path is not None and self._temporary is None:
                _tell(f"the trace of {root.name} is in {_written(root.path)}")
        return diagnoses


def _show(trace: "Trace", diagnosis: "Diagnosis", name: str) -> None:
    from gradscope.reports.terminal import Terminal

    if _prints():
        if name:
            click.echo(f"\n{name}", err=True)
        Terminal().write(trace, diagnosis, sys.stderr)


def _written_by_this(path: Path) -> Path:
    """The file that this process writes: of several each has its own."""
    from gradscope.processes import file_of, place

    here = place()
    return path if here is None else file_of(path, here.rank)


def _written(path: Path) -> str:
    """Where the trace went."""
    from gradscope.processes import place

    here = place()
    if here is None:
        return str(path)
    return f"{_written_by_this(path)}; `gradscope merge` adds up those of all {here.world_size} ranks"


def _tell(sentence: str) -> None:
    if _prints():
        say(sentence)


def _prints() -> bool:
    """Whether this is the process that speaks for all: of those that torchrun starts, the first."""
    return os.environ.get("RANK", "0") == "0"

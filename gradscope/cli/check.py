"""`gradscope check`: the gate. It judges models that it trains for a few steps, traces and scripts."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradscope.cli.output import TEXT, deliver, output_options, placements, require_writable
from gradscope.cli.settings import settings_of, settings_options
from gradscope.cli.subjects import Asked, Recorded, Subject, subjects
from gradscope.cli.terminal import say, stderr, stdout_aside
from gradscope.config import STEPS, Config
from gradscope.errors import GradscopeError
from gradscope.findings import Diagnosis
from gradscope.verdict import Judged, Verdict

if TYPE_CHECKING:
    from gradscope.baseline import Baseline
    from gradscope.gate import Policy

_SCRIPT_ARGUMENTS = "gradscope.script_arguments"


class _Check(click.Command):
    """A command behind whose `--` a script's own arguments stand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_SCRIPT_ARGUMENTS] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command("check", cls=_Check, options_metavar="[OPTIONS]")
@click.argument("names", metavar="[NAME|TRACE|SCRIPT]... [-- ARGS]", nargs=-1)
@click.option("--model", metavar="PKG.MOD:NAME", help="Train what this returns, without any settings file.")
@click.option("--batch", metavar="PKG.MOD:NAME", help="Returns (inputs, targets); may take the step.")
@click.option("--loss", metavar="PKG.MOD:NAME", help="Of (outputs, targets), or of (model, batch).")
@click.option("--optimizer", metavar="PKG.MOD:NAME", help="Of the parameters.  [default: torch.optim:Adam]")
@click.option("--lr", type=float, help="Learning rate.  [default: the optimizer's]")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help=f"To train.  [default: {STEPS}]")
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Train with seeds 0 to N − 1.  [default: 1]")
@click.option("--device", metavar="DEVICE", help="Where to train.  [default: cpu]")
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is the name of a module, as after `python -m`.")
@settings_options
@click.option(
    "--write-baseline",
    "new_baseline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Accept what is found now: write it, and the gradient profile, to this file.",
)
@output_options
@click.pass_context
def check(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    model: str | None,
    batch: str | None,
    loss: str | None,
    optimizer: str | None,
    lr: float | None,
    steps: int | None,
    seeds: int | None,
    device: str | None,
    is_module: bool,
    new_baseline: Path | None,
    formats: tuple[str, ...],
    files: tuple[Path, ...],
    quiet: bool,
) -> int:
    """Fail a build in which a layer is dead, or its gradient vanishes or explodes.

    Without a NAME every target of [tool.gradscope] in pyproject.toml is built, trained for a few steps and judged. A
    TRACE is judged as it was recorded; a SCRIPT runs until it has trained for --steps.

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 misuse, or something could not be judged.
    """
    config = settings_of(ctx)
    changes = {"optimizer": optimizer, "lr": lr, "steps": steps, "seeds": seeds, "device": device}
    asked = Asked(
        names=names,
        model=model,
        batch=batch,
        loss=loss,
        changes={name: value for name, value in changes.items() if value is not None},
        arguments=ctx.meta.get(_SCRIPT_ARGUMENTS),
        is_module=is_module,
    )
    wanted = subjects(asked, config)
    read = [*map(Path, names), *([config.file] if config.file is not None else [])]
    if new_baseline is not None:
        require_writable(new_baseline, "--write-baseline", read)
    baselines = [one for one in (config.baseline, new_baseline) if one is not None]
    plan = placements(formats, files, quiet=quiet, inputs=read + baselines)
    kept = _kept(new_baseline, everything=not names and model is None)
    policy = _policy(config, held_against_baseline=new_baseline is None)
    with importable(config.root):
        judged = [one for subject in wanted for one in _judged(subject, policy, debug="debug" in (ctx.obj or ()))]
    if new_baseline is not None:
        judged = _accepted(judged, new_baseline, kept)
    verdict = Verdict(targets=tuple(judged), fail_on=config.fail_on, baseline=policy.baseline is not None)
    texts = TEXT in (one.name for one in plan.streamed) and not all(one.error for one in judged)
    for one in judged:
        if one.error and not texts:  # else it stands there
            says_where = one.error.startswith((one.target, "[[tool.gradscope.check]]", "`--"))
            say(one.error if says_where else f"{one.target}: {one.error}")
    if not all(one.error for one in judged) or plan.files or [one.name for one in plan.streamed] != [TEXT]:
        deliver(plan, verdict)
    return verdict.exit_code


def _policy(config: Config, *, held_against_baseline: bool) -> "Policy":
    from gradscope.baseline import read_baseline
    from gradscope.gate import Policy
    from gradscope.rules.selection import chosen_rules

    baseline = config.baseline if held_against_baseline else None
    return Policy(
        rules=chosen_rules(config),
        suppress=config.suppress,
        baseline=read_baseline(baseline) if baseline is not None else None,
        max_drift=config.max_drift if held_against_baseline else None,
    )


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """The current folder and these can be imported from, as under pytest; and forgotten afterwards."""
    before = list(sys.path)
    for folder in dict.fromkeys(str(one) for one in (*folders, Path.cwd())):
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _judged(subject: Subject, policy: "Policy", *, debug: bool) -> list[Judged]:
    """The verdict on `subject`; one that could not be judged says why, and the others go on."""
    from gradscope.tracebacks import place_of, told, without_ours

    try:
        with _working_on(subject.name), stdout_aside():
            made = subject.record()
        return [_judged_alone(one, policy, debug=debug) for one in made]
    except GradscopeError as error:
        return [_broken(subject.name, error, debug=debug)]
    except SystemExit as leaving:
        where = place_of(leaving)
        why = f"{where}{': ' * bool(where)}sys.exit({leaving.code!r}) ended it; return instead."
        return [_broken(subject.name, why)]
    except Exception as error:
        traceback.print_exception(error if debug else without_ours(error))
        return [_broken(subject.name, told(error))]


def _judged_alone(made: Recorded, policy: "Policy", *, debug: bool) -> Judged:
    """One of the models of a subject: where it cannot be judged, the script's others still are."""
    from gradscope.gate import judge
    from gradscope.health import require_judged

    try:
        one = judge(made.name, made.traces, policy, seeds=made.seeds, duration_s=made.duration_s)
        if not (one.known or one.suppressed):
            require_judged(one.diagnosis, policy.rules, made.traces)
    except GradscopeError as error:
        return _broken(made.name, error, debug=debug)
    return one


def _broken(name: str, why: str | GradscopeError, *, debug: bool = False) -> Judged:
    if debug and isinstance(why, GradscopeError):
        traceback.print_exception(why)
    nothing = Diagnosis(findings=(), not_judged=(), steps=0, sites=0)
    return Judged(target=name, diagnosis=nothing, error=" ".join(str(why).split()))


@contextmanager
def _working_on(name: str) -> Iterator[None]:
    """Says so on a terminal, until it is done."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(name):
        yield


def _kept(path: Path | None, *, everything: bool) -> "Baseline":
    """What an older baseline at `path` knows of what is not judged now: all of it, or where `everything` is, the tests.

    Raises:
        UsageError: There is another kind of file.
    """
    from gradscope.baseline import Baseline, baseline_before

    older = Baseline() if path is None else baseline_before(path)
    return older.of_tests() if everything else older


def _accepted(judged: Sequence[Judged], path: Path, kept: "Baseline") -> list[Judged]:
    """Writes the baseline, with what is `kept` of other targets; what it holds from now on counts no more."""
    from gradscope.baseline import baseline_of, write_baseline

    broken = [one.target for one in judged if one.error]
    if broken:
        say(f"no baseline was written: {', '.join(broken)} could not be judged.")
        return list(judged)
    new = baseline_of(judged)
    write_baseline(new.joined(kept.without(one.target for one in judged)), path)
    found = len(new.findings)
    say(f"wrote {path}: {found} finding{'s' * (found != 1)} of {len(judged)} target{'s' * (len(judged) != 1)}")
    return [replace(one, diagnosis=replace(one.diagnosis, findings=()), known=one.diagnosis.findings) for one in judged]

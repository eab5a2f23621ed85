"""What `gradscope check` was asked to judge: targets of the settings, a model named on the command line, files."""

import time as clock
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.config import STEPS, CheckTarget, Config
from gradscope.errors import UsageError, nearest

if TYPE_CHECKING:
    from gradscope.trace import Trace

_TRACES = (".h5", ".hdf5", ".hdf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What is judged under one name.

    Attributes:
        traces: One for each seed.
        seeds: Empty for what was not trained by seeds.
        duration_s: Of training or reading it, in seconds; the import of torch and of the user's modules is not in it.
    """

    name: str
    traces: "Sequence[Trace]"
    seeds: Sequence[int] = ()
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One thing to judge.

    Attributes:
        name: What it is called where it cannot be judged.
        record: Trains it, or reads it; a script may train several models.
    """

    name: str
    record: Callable[[], Sequence[Recorded]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line, as far as it says what to judge.

    Attributes:
        names: Targets, traces, or one script.
        model: Reference to a factory; with `batch` and `loss` a target of its own.
        changes: What to train otherwise than it is set, by the fields of `CheckTarget`: steps, seeds, lr, …
        arguments: The script's own; None where no `--` was written.
        is_module: Whether the script is the name of a module.
    """

    names: tuple[str, ...] = ()
    model: str | None = None
    batch: str | None = None
    loss: str | None = None
    changes: Mapping[str, str | int | float]
    arguments: tuple[str, ...] | None = None
    is_module: bool = False


def subjects(asked: Asked, config: Config) -> tuple[Subject, ...]:
    """What to judge, in the order in which it was named.

    Raises:
        UsageError: A name is none, or the parts of the command line do not go together.
    """
    if asked.model is not None or asked.batch is not None or asked.loss is not None:
        return (_trained(_named_model(asked), asked.changes, options=("model", "batch", "loss")),)
    targets = {target.name: target for target in config.checks}
    if asked.is_module or asked.arguments is not None:
        return (_script(asked, targets),)
    if not asked.names:
        if not config.checks:
            raise UsageError(
                "nothing to check: name a trace or a script, give `--model`, `--batch` and `--loss`, or describe"
                " targets as [[tool.gradscope.check]] in pyproject.toml."
            )
        return tuple(_trained(target, asked.changes) for target in config.checks)
    found = []
    for name in dict.fromkeys(asked.names):
        if name in targets:
            found.append(_trained(targets[name], asked.changes))
        elif name.endswith(".py") and Path(name).is_file():
            return (_script(asked, targets),)
        else:
            found.append(_trace(_file(name, targets), [other for other in asked.names if other != name]))
    if asked.changes and not targets.keys() & set(asked.names):
        raise UsageError(f"{_options(asked.changes)} says how to train; a trace is judged as it was recorded.")
    return tuple(found)


def _named_model(asked: Asked) -> CheckTarget:
    parts = {"--model": asked.model, "--batch": asked.batch, "--loss": asked.loss}
    lacking = [option for option, value in parts.items() if value is None]
    if asked.model is None or asked.batch is None or asked.loss is None:
        given = [f"`{option} {value}`" for option, value in parts.items() if value is not None]
        raise UsageError(f"{' and '.join(given)} alone cannot be trained; give {' and '.join(lacking)} too.")
    if asked.names or asked.arguments is not None or asked.is_module:
        more = " ".join([*asked.names, *(["--", *asked.arguments] if asked.arguments is not None else [])]) or "-m"
        raise UsageError(f"`--model {asked.model}` is checked by itself; leave out `{more}`, or `--model`.")
    return CheckTarget(name=asked.model, model=asked.model, batch=asked.batch, loss=asked.loss)


def _trained(
    target: CheckTarget, changes: Mapping[str, str | int | float], *, options: Collection[str] = ()
) -> Subject:
    changed = replace(target, **changes)  # type: ignore[arg-type]

    def record() -> Sequence[Recorded]:
        from gradscope import trial

        ready = trial.of(changed, options={*options, *changes})
        seeds = range(changed.seeds)
        started = clock.perf_counter()
        traces = [trial.train(ready, seed) for seed in seeds]
        return [Recorded(name=changed.name, traces=traces, seeds=seeds, duration_s=clock.perf_counter() - started)]

    return Subject(name=changed.name, record=record)


def _file(name: str, targets: Mapping[str, CheckTarget]) -> Path:
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{name!r} is a folder; name a trace or a script in it, such as {str(path / 'run.h5')!r}.")
    if not path.exists():
        if name.endswith((*_TRACES, ".py")):
            raise UsageError(f"no such file: {name!r}.")
        way_out = nearest(name, targets) if targets else "; pyproject.toml names none."
        raise UsageError(f"{name!r} is no target of [tool.gradscope], and no file{way_out}")
    return path


def _trace(path: Path, others: Sequence[str]) -> Subject:
    """Its target is the file's name, so that findings are recognised wherever it lies; of two alike the whole path."""
    name = path.as_posix() if path.name in [Path(other).name for other in others] else path.name

    def record() -> Sequence[Recorded]:
        from gradscope.storage import read_trace

        started = clock.perf_counter()
        trace = read_trace(path)
        return [Recorded(name=name, traces=[trace], duration_s=clock.perf_counter() - started)]

    return Subject(name=name, record=record)


def _script(asked: Asked, targets: Mapping[str, CheckTarget]) -> Subject:
    if len(asked.names) != 1:
        named = f"{' and '.join(asked.names)} were named" if asked.names else "none was named"
        raise UsageError(
            f"a script is checked by itself, {named}; its own arguments stand behind `--`: "
            "`gradscope check train.py -- --lr 0.1`."
        )
    (script,) = asked.names
    if not asked.is_module:
        if script in targets and not Path(script).exists():
            raise UsageError(f"{script!r} is a target; `{' '.join(['--', *(asked.arguments or ())])}` is for a script.")
        _file(script, targets)
    strange = {name: value for name, value in asked.changes.items() if name != "steps"}
    if strange:
        raise UsageError(f"{_options(strange)}: how a script trains is in its own arguments, behind `--`.")
    steps = int(asked.changes.get("steps", STEPS))

    def record() -> Sequence[Recorded]:
        from gradscope.rehearsal import rehearse

        started = clock.perf_counter()
        made = rehearse(script, asked.arguments or (), is_module=asked.is_module, steps=steps)
        spent = (clock.perf_counter() - started) / max(len(made), 1)
        name = script if asked.is_module else Path(script).name
        return [
            Recorded(name=name if len(made) == 1 else f"{name}:{model}", traces=[trace], duration_s=spent)
            for model, trace in made
        ]

    return Subject(name=script, record=record)


def _options(changes: Mapping[str, str | int | float]) -> str:
    return " ".join(f"`--{name} {value}`" for name, value in changes.items())

"""The settings of the gate: `[tool.gradscope]` of pyproject.toml, what overrides them, and where each comes from.

    [tool.gradscope]
    select = ["GS"]
    fail-on = "error"
    [tool.gradscope.rules.dead-units]
    warn-fraction = 0.3
    [[tool.gradscope.suppress]]
    rule = "GS301"
    module = "backbone.*"
    reason = "frozen, pruned on purpose"
    [[tool.gradscope.check]]
    name = "encoder"
    model = "acme.models:build_encoder"
    batch = "acme.data:tiny_batch"
    loss = "torch.nn.functional:cross_entropy"

All that is wrong with them is told at once: a person mends a file in one go.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from gradscope.errors import UsageError
from gradscope.findings import Severity
from gradscope.references import is_reference, meant
from gradscope.selectors import ALL
from gradscope.thresholds import read_thresholds, refuse_no_rule
from gradscope.toml_table import Table
from gradscope.verdict import GAIN_DRIFT

STEPS, SEEDS = 20, 1  # of a target that does not say
NEVER = "never"
FAIL_ON = (*(severity.value for severity in reversed(Severity)), NEVER)
DEFAULT, COMMAND_LINE = "default", "command line"  # where a setting comes from, if not from a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """`[[tool.gradscope.suppress]]`: findings that are accepted.

    Attributes:
        rule: Code or name of a rule, or the beginning of codes.
        module: Pattern of module names, `backbone.*`.
        reason: In the user's words; never empty.
        target: Pattern of the names of targets.
    """

    rule: str
    module: str
    reason: str
    target: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTarget:
    """`[[tool.gradscope.check]]`: a model that the gate trains. References are written "package.module:name".

    Attributes:
        name: What `gradscope check NAME` calls it.
        model: Reference to a callable that returns the model.
        batch: Reference to a callable that returns (inputs, targets); it may take the step.
        loss: Reference to a callable of (outputs, targets), or of (model, batch).
        optimizer: Reference to a callable of the parameters; None for Adam.
        lr: Learning rate; None for the optimizer's own.
        steps: Optimizer steps.
        seeds: How many times it is trained, with seeds 0 to seeds − 1.
        device: As torch writes it.
    """

    name: str
    model: str
    batch: str
    loss: str
    optimizer: str | None = None
    lr: float | None = None
    steps: int = STEPS
    seeds: int = SEEDS
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective settings.

    Attributes:
        root: Folder of the file that they are from; else the current one.
        file: That file; None where all are defaults.
        select: The rules that are asked: beginnings of codes, names, or "ALL".
        ignore: Those that are not, where these words say it as closely as those of `select`, or more.
        fail_on: Lowest severity for which the gate fails; None for never.
        rules: Thresholds by rule name and field ("dead-units": {"warn_fraction": 0.3}).
        suppress: Accepted findings.
        checks: What `gradscope check` trains.
        baseline: File of known findings, absolute.
        max_drift: Decades by which a layer's gain may differ from the baseline's; None: it is not compared.
        origins: Where each setting comes from, by its key as written ("fail-on", "rules.dead-units.warn-fraction").
    """

    root: Path
    file: Path | None = None
    select: tuple[str, ...] = (ALL,)
    ignore: tuple[str, ...] = ()
    fail_on: Severity | None = Severity.ERROR
    rules: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    suppress: tuple[Suppression, ...] = ()
    checks: tuple[CheckTarget, ...] = ()
    baseline: Path | None = None
    max_drift: float | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where the setting of that name comes from."""
        return self.origins.get(key, DEFAULT)

    @property
    def fails_on(self) -> str:
        """`fail_on` as it is written."""
        return NEVER if self.fail_on is None else self.fail_on.value


def read_config(path: Path | None = None, *, start: Path | None = None) -> Config:
    """The settings in the file at `path`, else in the nearest pyproject.toml from `start` upwards that has any.

    Without one, all have their defaults.

    Raises:
        UsageError: A file cannot be read, or something in it is wrong; the text tells all of it.
    """
    if path is not None:
        values = _gradscope_table(path)
        if values is None:
            raise UsageError(f"{str(path)!r} has no [tool.gradscope]; write one, or leave out `--config {path}`.")
        return _config(values, path.absolute())
    here = Path.cwd() if start is None else start.absolute()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        values = _gradscope_table(file) if file.is_file() else None
        if values is not None:
            return _config(values, file)
    return Config(root=here)


def overridden(
    config: Config,
    *,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    fail_on: str | None = None,
    baseline: Path | None = None,
    max_drift: float | None = None,
    origin: str = COMMAND_LINE,
) -> Config:
    """`config` with what is said at `origin` instead; None leaves a setting as it is.

    Raises:
        UsageError: What is said cannot be.
    """
    said: dict[str, object] = {
        "select": list(select) if isinstance(select, tuple) else select,
        "ignore": list(ignore) if isinstance(ignore, tuple) else ignore,
        "fail-on": fail_on,
        "max-drift": max_drift,
    }
    given = {key: value for key, value in said.items() if value is not None}
    mistakes: list[str] = []
    by_options = origin == COMMAND_LINE
    table = Table(given, mistakes, path="--" * by_options, joint=" " if by_options else " = ")
    changed = _scalars(config, table)
    if baseline is not None:
        changed = replace(changed, baseline=baseline.absolute())
        given["baseline"] = baseline
    elif max_drift is not None and config.baseline is None and not mistakes:
        table.refuse("max-drift", "is measured from a baseline, and none is given")
    if mistakes:
        raise UsageError(f"{'' if by_options else f'{origin}: '}{'; '.join(mistakes)}.")
    return replace(changed, origins={**config.origins, **dict.fromkeys(given, origin)})


def _gradscope_table(file: Path) -> object | None:
    """What the file holds under [tool.gradscope]; None if nothing.

    Raises:
        UsageError: It is no TOML, or cannot be read.
    """
    try:
        document = tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{_shown(file)}, line {line}: TOML is written in UTF-8, and this is not; save it so."
        ) from error
    except ValueError as error:  # of tomllib, or of an integer with too many digits
        raise UsageError(f"{_shown(file)} is no valid TOML: {str(error)[:1].lower()}{str(error)[1:]}.") from error
    tool = document.get("tool")
    return tool.get("gradscope") if isinstance(tool, Mapping) else None


def _config(values: object, file: Path) -> Config:
    if not isinstance(values, Mapping):
        raise UsageError(f"{_shown(file)}: `tool.gradscope` must be a table, [tool.gradscope].")
    mistakes: list[str] = []
    top = Table(values, mistakes)
    top.refuse_others(("select", "ignore", "fail-on", "rules", "suppress", "check", "baseline", "max-drift"))
    baseline = top.text("baseline")
    config = replace(
        _scalars(Config(root=file.parent, file=file), top),
        baseline=None if baseline is None else file.parent / baseline,
        rules=read_thresholds(top.table("rules")),
        suppress=_suppressions(top.tables("suppress")),
        checks=_targets(top.tables("check")),
    )
    if mistakes:
        numbers = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        count = numbers[len(mistakes)] if len(mistakes) < len(numbers) else str(len(mistakes))
        found = f"{count} mistake{'s' * (len(mistakes) > 1)}: {'; '.join(mistakes)}"
        raise UsageError(f"{_shown(file)}: [tool.gradscope] has {found}.")
    return replace(config, origins=_origins(values, str(file)))


def _scalars(config: Config, table: Table) -> Config:
    """`config` with those settings of one value that `table` has."""
    chosen = {key: table.texts(key) for key in ("select", "ignore")}
    for key, selectors in chosen.items():
        for selector in selectors or ():
            refuse_no_rule(table, key, selector)
    if chosen["select"] == ():
        table.refuse("select", f"leaves no rule; to have all, write {[ALL]}".replace("'", '"'))
    fail_on = table.choice("fail-on", FAIL_ON)
    drift = table.positive("max-drift")
    return replace(
        config,
        select=config.select if chosen["select"] is None else chosen["select"],
        ignore=config.ignore if chosen["ignore"] is None else chosen["ignore"],
        fail_on=config.fail_on if fail_on is None else None if fail_on == NEVER else Severity(fail_on),
        max_drift=config.max_drift if drift is None else drift,
    )


def _suppressions(tables: Iterable[Table]) -> tuple[Suppression, ...]:
    found = []
    for table in tables:
        table.refuse_others(("rule", "module", "reason", "target"))
        table.require(("rule", "module", "reason"))
        if (rule := table.text("rule")) and rule != GAIN_DRIFT:
            refuse_no_rule(table, "rule", rule)
        found.append(
            Suppression(
                rule=rule or "",
                module=table.text("module", blank=True) or "",
                reason=table.text("reason") or "",
                target=table.text("target") or "*",
            )
        )
    return tuple(found)


def _targets(tables: Iterable[Table]) -> tuple[CheckTarget, ...]:
    found: list[CheckTarget] = []
    for table in tables:
        table.refuse_others(one.name for one in fields(CheckTarget))
        table.require(("name", "model", "batch", "loss"))
        name = table.text("name")
        if name in [one.name for one in found]:
            table.refuse("name", "stands twice, and each needs a name of its own")
        steps, seeds = table.whole("steps", least=1), table.whole("seeds", least=1)
        found.append(
            CheckTarget(
                name=name or "",
                model=_reference(table, "model") or "",
                batch=_reference(table, "batch") or "",
                loss=_reference(table, "loss") or "",
                optimizer=_reference(table, "optimizer"),
                lr=table.positive("lr"),
                steps=STEPS if steps is None else steps,
                seeds=SEEDS if seeds is None else seeds,
                device=table.text("device") or "cpu",
            )
        )
    return tuple(found)


def _reference(table: Table, key: str) -> str | None:
    """What `key` has, where it looks like "package.module:name"."""
    text = table.text(key)
    if text is None:
        return None
    if is_reference(text):
        return text
    table.refuse(key, f"must be a module and a name in it{meant(text).replace(';', ':').removesuffix('.')}")
    return None


def _origins(values: Mapping[str, object], file: str) -> dict[str, str]:
    """Where each setting that stands in `values` is written, without its default."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if key == "rules" and isinstance(value, Mapping):
            for rule, thresholds in value.items():
                found |= {f"rules.{rule}.{name}": f"{file} [tool.gradscope.rules.{rule}]" for name in thresholds}
        elif key == "check" and isinstance(value, list):
            for target in value:
                found |= {f"check.{target['name']}.{name}": f"{file} [[tool.gradscope.check]]" for name in target}
        elif key == "suppress" and isinstance(value, list):
            found |= {f"suppress.{i}": f"{file} [[tool.gradscope.suppress]]" for i in range(1, len(value) + 1)}
        else:
            found[key] = f"{file} [tool.gradscope]"
    return found


def _shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)

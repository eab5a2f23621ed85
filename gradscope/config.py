"""The settings of the gate: `[tool.gradscope]` of pyproject.toml, what overrides them, and where each comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gradscope.findings import Severity


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
    steps: int = 20
    seeds: int = 1
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective settings.

    Attributes:
        root: Folder of the pyproject.toml they are from; else the current one.
        select: Beginnings of the codes of the rules that are asked.
        ignore: Of those that are not, where they are longer than those of `select`, or as long.
        fail_on: Lowest severity for which the gate fails; None for never.
        rules: Thresholds by rule name and field ("dead-units": {"warn_fraction": 0.3}).
        suppress: Accepted findings.
        checks: What `gradscope check` trains.
        baseline: File of known findings, absolute.
        max_drift: Decades by which a layer's gain may differ from the baseline's; None: it is not compared.
        origins: Where each setting comes from, by its key as written ("fail-on", "rules.dead-units.warn-fraction").
    """

    root: Path
    select: tuple[str, ...] = ("GS",)
    ignore: tuple[str, ...] = ()
    fail_on: Severity | None = Severity.ERROR
    rules: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    suppress: tuple[Suppression, ...] = ()
    checks: tuple[CheckTarget, ...] = ()
    baseline: Path | None = None
    max_drift: float | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

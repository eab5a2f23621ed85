"""What a scenario is: data. A question, a task, and variants that must and must not show a pathology."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from gradscope.exhibits import Exhibit
from gradscope.findings import Diagnosis, Json
from gradscope.rules import RULES
from gradscope.trace import Trace

if TYPE_CHECKING:  # a list of the scenarios must not cost the import of torch
    import torch
    from torch import nn

Setting: TypeAlias = int | float | str
Settings: TypeAlias = Mapping[str, Setting]

EVERY_CODE = frozenset(rule.code for rule in RULES)  # what a healthy variant forbids
# Families of codes, for what a sick variant must not show beside its own sickness.
EXPLOSION = frozenset({"GS102", "GS202", "GS305", "GS401", "GS403", "GS502", "GS601"})  # something is far too large
STARVATION = frozenset({"GS101", "GS201", "GS304", "GS402", "GS501"})  # something is far too small
MISTAKES = frozenset({"GS103", "GS104", "GS503", "GS504", "GS505"})  # in the wiring or the loop, not of size

SCENARIO_SCHEMA = "gradscope/scenario/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Real data and a loss.

    Attributes:
        batches: An endless iterator of (inputs, targets) for a seed.
        loss: (outputs, targets) → scalar.
        score: (model) → "accuracy", say, on held-out data, and its value; called once, after training, in eval mode
            and under `no_grad`.
    """

    batches: "Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]"
    loss: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
    score: "Callable[[nn.Module], Mapping[str, float]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to build and train the model.

    Attributes:
        name: Shown in tables and figures; unique in its scenario.
        build: Settings → model, called after the seed was set.
        optimizer: (model, settings) → optimizer.
        clip: Called with the model between backward and step; None for no clipping.
        expect: Codes that must show, at severity warning or above.
        expect_if: Whether they must with given settings; elsewhere they may. None for always.
        forbid: Codes that must not.
    """

    name: str
    build: "Callable[[Settings], nn.Module]"
    optimizer: "Callable[[nn.Module, Settings], torch.optim.Optimizer]"
    clip: "Callable[[nn.Module, Settings], None] | None" = None
    expect: frozenset[str] = frozenset()
    expect_if: Callable[[Settings], bool] | None = None
    forbid: frozenset[str] = frozenset()

    def under(self, settings: Settings) -> "Variant":
        """The variant with what is expected of it where the settings are these."""
        return self if self.expect_if is None or self.expect_if(settings) else replace(self, expect=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A variant after its training: what a scenario measures its numbers on.

    Attributes:
        variant: Name of the variant.
        settings: All settings, the changed ones among them.
        model: In eval mode.
        trace: The finished recording.
        losses: Of every step.
        cosines: Of every step, the cosine between the whole gradient before and after the variant's `clip`; 1 where
            there is none, where nothing was clipped, or all of it by one factor.
        score: What the task's `score` said.
    """

    variant: str
    settings: Settings
    model: "nn.Module"
    trace: Trace
    losses: tuple[float, ...]
    cosines: tuple[float, ...]
    score: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRun:
    """One variant trained with one seed.

    Attributes:
        diagnosis: Of the trace.
        loss_first: Mean loss of the first tenth of the steps (at least one).
        loss_last: Mean loss of the last tenth.
        metrics: The scenario's own numbers, e.g. "gain_per_layer", "accuracy".
        trace: Where the trace lies.
        exhibits: The scenario's own tables of exact numbers.
    """

    variant: str
    seed: int
    diagnosis: Diagnosis
    loss_first: float
    loss_last: float
    metrics: Mapping[str, float]
    trace: Path
    exhibits: tuple[Exhibit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question, and the variants that answer it side by side.

    Attributes:
        name: "sigmoid-vs-relu".
        question: One sentence that ends in a question mark.
        lesson: What the numbers show, in one or two sentences for a reader who has seen the table.
        source: Paper, section.
        task: Settings → task.
        variants: At least one sick and one healthy.
        settings: What `--set` can change, with defaults; the type of the default is the type of the setting.
        ranges: Smallest and largest sensible value of a setting that is a number; its default lies within.
        choices: Allowed values of a setting that is a word.
        steps: Optimizer steps of a variant, by default.
        measure: The scenario's own numbers of a trained variant, in the order of the table's columns. A number that
            does not exist is NaN.
        units: For a metric's column, how it is shown: a format such as ".2f", ".0%", ".1e".
        every: Every n-th step is recorded: long trainings need not record all of theirs.
        exhibits: Tables of exact numbers of a trained variant, to be checked by hand; None for none.
    """

    name: str
    question: str
    lesson: str
    source: str
    task: Callable[[Settings], Task]
    variants: tuple[Variant, ...]
    steps: int
    measure: Callable[[Trained], Mapping[str, float]]
    settings: Settings = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    every: int = 1
    exhibits: Callable[[Trained], Iterable[Exhibit]] | None = None

    def variant(self, name: str) -> Variant:
        """The variant called `name`."""
        return next(v for v in self.variants if v.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """All variants of a scenario, each with all seeds."""

    scenario: Scenario
    seeds: tuple[int, ...]
    runs: tuple[VariantRun, ...]

    def of(self, variant: Variant) -> Sequence[VariantRun]:
        """The runs of one variant, in the order of the seeds."""
        return [run for run in self.runs if run.variant == variant.name]

    def variant_as_expected(self, variant: Variant) -> bool:
        """Whether every seed shows all expected codes and no forbidden one."""
        return all(
            variant.expect <= run.diagnosis.codes and not variant.forbid & run.diagnosis.codes
            for run in self.of(variant)
        )

    @property
    def as_expected(self) -> bool:
        """Whether every variant came out as expected with every seed."""
        return all(self.variant_as_expected(variant) for variant in self.scenario.variants)

    def to_dict(self) -> dict[str, Json]:
        """The result as `--format json` has it; diagnosis, loss, metrics and trace are the first seed's."""
        from gradscope.findings import finite

        def of_run(run: VariantRun) -> dict[str, Json]:
            return {
                "diagnosis": run.diagnosis.to_dict(),
                "loss": {"first": run.loss_first, "last": run.loss_last},
                "metrics": dict(run.metrics),
                "trace": str(run.trace),
                **({"exhibits": [exhibit.to_dict() for exhibit in run.exhibits]} if run.exhibits else {}),
            }

        several = len(self.seeds) > 1
        variants: list[Json] = [
            {
                "name": variant.name,
                "as_expected": self.variant_as_expected(variant),
                "expected": list[Json](sorted(variant.expect)),
                "forbidden": list[Json](sorted(variant.forbid)),
                **of_run(self.of(variant)[0]),
                **({"seeds": [{"seed": run.seed, **of_run(run)} for run in self.of(variant)]} if several else {}),
            }
            for variant in self.scenario.variants
        ]
        document: dict[str, Json] = {
            "schema": SCENARIO_SCHEMA,
            "scenario": self.scenario.name,
            "as_expected": self.as_expected,
            "seeds": list[Json](self.seeds),
            "variants": variants,
        }
        return {key: finite(value) for key, value in document.items()}

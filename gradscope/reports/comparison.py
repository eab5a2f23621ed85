"""Several variants of one training, each recorded with one or more seeds: what a report puts side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradscope.exhibits import Exhibit
from gradscope.findings import Diagnosis
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedRun:
    """One variant, one seed.

    Attributes:
        loss_first: Loss at the beginning.
        loss_last: Loss at the end.
        metrics: Numbers that were measured of this run, for the columns of the table.
        exhibits: Tables of exact numbers, shown after that.
    """

    seed: int
    trace: Trace
    diagnosis: Diagnosis
    loss_first: float
    loss_last: float
    metrics: Mapping[str, float]
    exhibits: tuple[Exhibit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedVariant:
    """One line of the table.

    Attributes:
        expect: Codes that had to show.
        forbid: Codes that must not.
        runs: One for each seed, at least one.
    """

    name: str
    runs: tuple[ComparedRun, ...]
    expect: frozenset[str] = frozenset()
    forbid: frozenset[str] = frozenset()

    @property
    def complaints(self) -> tuple[str, ...]:
        """What did not come out as expected, a sentence for each seed and kind."""
        said = []
        for run in self.runs:
            for codes, what in (
                (self.expect - run.diagnosis.codes, "does not show"),
                (self.forbid & run.diagnosis.codes, "must not show"),
            ):
                if codes:
                    said.append(f"{self.name}, seed {run.seed}, {what} {' '.join(sorted(codes))}")
        return tuple(said)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Variants side by side.

    Attributes:
        question: What the comparison answers.
        lesson: What its numbers show.
        source: Paper, section.
        units: For a metric, the format its numbers are shown in, such as ".0%".
    """

    name: str
    question: str
    lesson: str
    source: str
    seeds: tuple[int, ...]
    variants: tuple[ComparedVariant, ...]
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def as_expected(self) -> bool:
        """Whether every variant came out as expected with every seed."""
        return not any(variant.complaints for variant in self.variants)

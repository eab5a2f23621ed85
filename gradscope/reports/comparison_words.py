"""What a comparison says at a terminal and on a page alike: what came out, numbers, findings, what was not judged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.exhibits import Cell
from gradscope.findings import Finding
from gradscope.reports.comparison import ComparedRun, ComparedVariant, Comparison

NUMBER_FORMAT = ".3g"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A code that was found.

    Attributes:
        text: The code; with how many of the runs show it, where not all do.
        expected: Whether it had to show.
        forbidden: Whether it must not.
    """

    code: str
    text: str
    expected: bool
    forbidden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One cell of the table.

    Attributes:
        middle: The median over the seeds; "" where the number does not exist.
        spread: Their range; "" where there is none.
        diverged: Whether it is a loss that ended in NaN or Inf.
    """

    middle: str
    spread: str = ""
    diverged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One column of the table, a cell for each variant."""

    head: str
    cells: tuple[Number, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A root in one variant, with what follows from it."""

    variant: str
    finding: Finding
    symptoms: tuple[Finding, ...]

    @property
    def hence(self) -> tuple[str, ...]:
        """The codes that follow from it, each once."""
        return tuple(dict.fromkeys(symptom.code for symptom in self.symptoms))


def is_wrong(variant: ComparedVariant, run: ComparedRun) -> bool:
    """Whether the run does not show what it had to, or shows what it must not."""
    return bool(run.diagnosis.codes & variant.forbid or variant.expect - run.diagnosis.codes)


def right_and_wrong(variant: ComparedVariant) -> tuple[int, int]:
    """How many runs came out as expected, and how many did not."""
    wrong = sum(is_wrong(variant, run) for run in variant.runs)
    return len(variant.runs) - wrong, wrong


def codes_of(variant: ComparedVariant) -> list[Share]:
    """Codes of warnings and errors, in their order."""
    found = []
    for code in sorted({code for run in variant.runs for code in run.diagnosis.codes}):
        count = sum(code in run.diagnosis.codes for run in variant.runs)
        text = code if count == len(variant.runs) else f"{code} {count}/{len(variant.runs)}"
        found.append(Share(code=code, text=text, expected=code in variant.expect, forbidden=code in variant.forbid))
    return found


def numbers_of(comparison: Comparison, *, arrow: str = "→") -> list[Numbers]:
    """The columns: the scenario's own numbers, then the loss at both ends."""
    names = dict.fromkeys(name for v in comparison.variants for run in v.runs for name in run.metrics)
    columns = [
        Numbers(
            head=metric_words(name),
            cells=tuple(
                _number([run.metrics.get(name, np.nan) for run in v.runs], comparison.units.get(name, NUMBER_FORMAT))
                for v in comparison.variants
            ),
        )
        for name in names
    ]
    return [*columns, Numbers(head="loss", cells=tuple(_losses(v, arrow) for v in comparison.variants))]


def metric_words(name: str) -> str:
    """``gain per layer`` of ``gain_per_layer``."""
    return name.replace("_", " ")


def lesson_parts(comparison: Comparison) -> Iterator[tuple[str, bool]]:
    """The lesson in parts, and whether each is the name of a metric: in backticks, and called as its column is."""
    for index, part in enumerate(comparison.lesson.split("`")):
        if part:
            yield (metric_words(part), True) if index % 2 else (part, False)


def lesson_title(comparison: Comparison) -> str:
    """What stands over the lesson."""
    return "What it shows" if comparison.as_expected else "What it shows where it comes out as expected"


def findings_title(comparison: Comparison) -> str:
    """What stands over the findings: those of the first seed."""
    return f"Findings of seed {comparison.seeds[0]}" if len(comparison.seeds) > 1 else "Findings"


def alike(comparison: Comparison) -> list[list[Case]]:
    """The roots of the first seed, the worst first; those with the same cause and remedy stand together."""
    groups: dict[tuple[str, str, str, str], list[Case]] = {}
    for variant in comparison.variants:
        diagnosis = variant.runs[0].diagnosis
        for root in diagnosis.roots:
            key = (root.code, root.severity.value, root.cause, root.remedy)
            case = Case(variant=variant.name, finding=root, symptoms=diagnosis.symptoms_of(root))
            groups.setdefault(key, []).append(case)
    return sorted(groups.values(), key=lambda cases: -cases[0].finding.severity.rank)


def without_finding(comparison: Comparison) -> list[str]:
    """The variants in which the first seed has none."""
    return [variant.name for variant in comparison.variants if not variant.runs[0].diagnosis.findings]


def lacking(comparison: Comparison) -> list[str]:
    """The rules that lacked data, by what was missing and where: not judged is not clean."""
    found: dict[tuple[str, str], list[str]] = {}
    for variant in comparison.variants:
        for item in variant.runs[0].diagnosis.not_judged:
            found.setdefault((item.rule, item.reason), []).append(variant.name)
    lines: dict[tuple[str, str], list[str]] = {}
    for (rule, reason), names in found.items():
        some = " · ".join(names) if len(names) <= 2 else f"{len(names)} of {len(comparison.variants)} variants"
        where = "" if len(names) == len(comparison.variants) else f" ({some})"
        lines.setdefault((reason, where), []).append(rule)
    return [f"{', '.join(rules)}: {reason}{where}" for (reason, where), rules in lines.items()]


def exact(cell: Cell, decimals: int, signs: Mapping[str, str] | None = None) -> list[str]:
    """What a cell of an exhibit holds: a word, a number with its decimals, or a vector's; a zero has no sign.

    `signs` says how a minus and a missing number are written, where that is not "−" and "–".
    """
    if isinstance(cell, str):
        return [cell]
    written = {"-": "−", "nan": "–"} if signs is None else signs
    return [_fixed(value, decimals, written) for value in (cell if isinstance(cell, tuple) else (cell,))]


def _fixed(value: float, decimals: int, signs: Mapping[str, str]) -> str:
    if np.isnan(value):
        return signs["nan"]
    return format(value if round(value, decimals) else 0.0, f".{decimals}f").replace("-", signs["-"])


def _number(values: Sequence[float], unit: str) -> Number:
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return Number(middle="")
    middle = format(float(np.median(known)), unit)
    low, high = format(float(known.min()), unit), format(float(known.max()), unit)
    return Number(middle=middle, spread="" if low == high else f"{low}…{high}")


def _losses(variant: ComparedVariant, arrow: str) -> Number:
    first, last = (np.array([getattr(r, end) for r in variant.runs]) for end in ("loss_first", "loss_last"))
    text = f"{np.median(first):.3g}{arrow}{np.median(last):.3g}"
    return Number(middle=text, diverged=not np.isfinite(last).all())

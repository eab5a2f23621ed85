"""Findings and outstanding sites as tables: rows of cells, and Markdown for trackers that show text."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from gradscope.findings import Diagnosis, Severity
from gradscope.integrations.selection import Extreme

Cell: TypeAlias = str | int | float

FINDING_COLUMNS = (
    "severity", "code", "pathology", "module", "role", "first_step", "last_step", "message", "cause", "remedy",
)  # fmt: skip
EXTREME_COLUMNS = ("measure", "site", "median")


def finding_rows(diagnosis: Diagnosis) -> list[list[Cell]]:
    """One row for each finding, under `FINDING_COLUMNS`."""
    return [
        [
            f.severity.value,
            f.code,
            f.pathology,
            f.module or "(model)",
            f.role.value,
            f.first_step,
            f.last_step,
            f.message,
            f.cause,
            f.remedy,
        ]
        for f in diagnosis
    ]


def extreme_rows(extremes: Iterable[Extreme]) -> list[list[Cell]]:
    """One row for each site that stands out, under `EXTREME_COLUMNS`."""
    return [[extreme.measure, str(extreme.site), extreme.value] for extreme in extremes]


def counts(diagnosis: Diagnosis) -> dict[str, float]:
    """How many findings there are of each severity that matters; symptoms are counted too."""
    return {
        f"{severity.value}s": float(sum(f.severity is severity for f in diagnosis))
        for severity in (Severity.ERROR, Severity.WARNING)
    }


def findings_text(diagnosis: Diagnosis) -> str:
    """The findings in Markdown, and what could not be judged."""
    unjudged = "".join(f"- {item.rule}: {item.reason}\n" for item in diagnosis.not_judged)
    roots = len(diagnosis.roots)
    head = f"{roots} root finding{'s' * (roots != 1)}, {diagnosis.steps} step{'s' * (diagnosis.steps != 1)}"
    head += f", {diagnosis.sites} sites\n\n"
    table = _markdown(FINDING_COLUMNS, finding_rows(diagnosis)) if diagnosis.findings else "healthy\n"
    return head + table + (f"\nnot judged:\n\n{unjudged}" if unjudged else "")


def extremes_text(extremes: Iterable[Extreme]) -> str:
    """The sites that stand out in Markdown."""
    return _markdown(EXTREME_COLUMNS, extreme_rows(extremes))


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"{cell:.3g}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")

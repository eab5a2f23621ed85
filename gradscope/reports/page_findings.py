"""All findings of a page in one table, which its script sorts, filters and links to the map."""

from dataclasses import dataclass

from gradscope.findings import Diagnosis, Finding, Role, Severity
from gradscope.reports.page import Section
from gradscope.reports.page_verdict import span
from gradscope.reports.verdict_words import from_root, place
from gradscope.trace import Trace

MOST_ALIKE = 3  # modules that a cell names, of those that one finding speaks of


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Of a column."""

    title: str
    number: bool = False
    sorts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One finding as the template writes it.

    Attributes:
        rank: By which severities sort, as `first` steps and `measured_key` measured numbers.
        shows: The module to which the map goes; "" for the model, which is no layer.
        modules: All that it speaks of, by which the table is filtered.
    """

    severity: str
    rank: int
    title: str
    module: str
    modules: str
    shows: str
    role: str
    first: int
    span: str
    measured: str
    measured_key: str
    message: str


HEADS = (
    Head(title="Severity"),
    Head(title="Finding"),
    Head(title="Module"),
    Head(title="What was found", sorts=False),
    Head(title="Role"),
    Head(title="Steps", number=True),
    Head(title="Measured, limit", number=True),
)


def findings_section(_: Trace, diagnosis: Diagnosis) -> Section | None:
    """The table; None where nothing was found."""
    if not diagnosis.findings:
        return None
    counts = {s.value: sum(f.severity is s for f in diagnosis.findings) for s in reversed(Severity)}
    return Section(
        anchor="findings",
        title="Findings",
        template="findings.html",
        context={
            "heads": HEADS,
            "rows": [row(finding) for finding in diagnosis.findings],
            "counts": {severity: count for severity, count in counts.items() if count},
        },
        scripts=("findings.js", "shows.js"),
    )


def row(finding: Finding) -> Row:
    """A finding's line."""
    named = [place(module) for module in finding.modules]
    more = f" and {len(named) - MOST_ALIKE} more" if len(named) > MOST_ALIKE else ""
    at = "" if finding.time is None else f", time {finding.time}"
    return Row(
        severity=finding.severity.value,
        rank=finding.severity.rank,
        title=finding.title,
        module=", ".join(named[:MOST_ALIKE]) + more,
        modules="\n".join(named),
        shows=next(filter(None, (finding.module, *finding.modules)), ""),
        role="root" if finding.role is Role.ROOT else from_root(finding.caused_by) or "symptom",
        first=finding.first_step,
        span=f"{span(finding)}{at}",
        measured=f"{_number(finding.measured)} ({_number(finding.threshold)}) {finding.unit}".strip(),
        measured_key=str(finding.measured).replace("inf", "Infinity"),  # as JavaScript reads it
        message=finding.message,
    )


def _number(value: float) -> str:
    """Three digits; a count has all of its own, as the sentence beside it has."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"

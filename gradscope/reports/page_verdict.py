"""The top of a page: healthy or not, the roots in order with cause and remedy, their symptoms folded."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.findings import Diagnosis, Finding, Role
from gradscope.reports.by_rank import about_ranks
from gradscope.reports.diagnosis_text import by_code, verdict
from gradscope.reports.page import Section
from gradscope.reports.run_words import particulars
from gradscope.reports.verdict_words import counted, from_root, heads
from gradscope.sources import Place, place_of, places
from gradscope.trace import Trace

MOST_NAMES = 12  # of the places of a symptom; the table of findings has them all


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Symptoms of one kind.

    Attributes:
        title: As of a finding.
        severity: Of the first, as the message.
        places: Their modules.
        message: What is said of the first.
        most: How many places are named.
    """

    title: str
    severity: str
    places: tuple[str, ...]
    message: str
    most: int = MOST_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A finding that leads.

    Attributes:
        finding: What it says.
        span: The steps in which it was seen.
        written: Where the module is in the source; "" where that is not known.
        follows: Of a symptom whose root is not among the findings, what it follows from.
        folded: What follows from it.
        folded_words: The same as a line.
    """

    finding: Finding
    span: str
    written: str
    follows: str
    folded: tuple[Group, ...]
    folded_words: str


def verdict_section(trace: Trace, diagnosis: Diagnosis) -> Section:
    """What a person reads first."""
    known = places(trace.meta)
    return Section(
        anchor="verdict",
        title="Verdict",
        template="verdict.html",
        context={
            "verdict": verdict(diagnosis).plain,
            "state": state_of(diagnosis),
            "about": " · ".join(particulars(trace)),
            "ranks": about_ranks(trace) or "",
            "unjudged": any(item.rule != "recording" for item in diagnosis.not_judged),
            "heads": [_head(finding, folded, known) for finding, folded in heads(diagnosis)],
        },
        scripts=("shows.js",),
    )


def state_of(diagnosis: Diagnosis) -> str:
    """The class of the verdict's colour: "healthy" or the worst severity; of nothing recorded a warning."""
    if not diagnosis.steps:
        return "warning"
    return diagnosis.worst.value if diagnosis.worst is not None else "healthy"


def span(finding: Finding) -> str:
    """``12 to 400``; of a single step its number."""
    if finding.first_step == finding.last_step:
        return str(finding.first_step)
    return f"{finding.first_step} to {finding.last_step}"


def _head(finding: Finding, folded: Sequence[Finding], known: dict[str, Place]) -> Head:
    place = place_of(finding.module, known)
    alone = finding.role is Role.SYMPTOM
    return Head(
        finding=finding,
        span=span(finding),
        written=f"{place.file}:{place.line}" if place else "",
        follows=from_root(finding.caused_by) if alone else "",
        folded=tuple(_group(found) for found in by_code(folded).values()),
        folded_words=counted(len(folded), "more place" if alone else "symptom")
        + (" with the same cause" if alone else " that this explains"),
    )


def _group(found: Sequence[Finding]) -> Group:
    first = found[0]
    return Group(
        title=first.title,
        severity=first.severity.value,
        places=tuple(finding.module for finding in found),
        message=first.message,
    )

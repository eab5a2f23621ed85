"""The page of a difference: findings, both gradients along the depth, layers, modules."""

from collections.abc import Iterator, Sequence

from gradscope.changes import Measure
from gradscope.difference import Difference, Recorded
from gradscope.findings import Finding
from gradscope.reports.difference_figure import both_gradients
from gradscope.reports.difference_words import (
    BARS_SENTENCE,
    MEASURE_WORDS,
    MOST_NAMES,
    about,
    by,
    finding_line,
    headline,
    layer,
    movement,
    over,
    regrading,
    remarks,
    symptoms_of,
    value,
)
from gradscope.reports.page import Section, page_of
from gradscope.reports.verdict_words import counted, leading

MOST_ROWS = 20  # of one measure, before the rest is folded


def difference_page(difference: Difference) -> str:
    """The whole document."""
    made: tuple[Section | None, ...] = (
        _findings(difference),
        _gradient(difference),
        _layers(difference),
        _modules(difference),
    )
    title = f"{difference.b.name} against {difference.a.name}"
    return page_of(title, [section for section in made if section is not None])


def _findings(difference: Difference) -> Section:
    return Section(
        anchor="findings",
        title="What differs",
        template="diff_findings.html",
        context={
            "headline": headline(difference),
            "runs": [(letter, run.name, about(run)) for letter, run in (("A", difference.a), ("B", difference.b))],
            "groups": [(title, entries) for title, entries in _groups(difference) if entries],
        },
    )


def _groups(difference: Difference) -> Iterator[tuple[str, list[tuple[Finding, list[str]]]]]:
    yield "Appeared in B", _differing(difference, difference.appeared, difference.a)
    yield "Vanished from A", _differing(difference, difference.vanished, difference.b)
    yield "Moved", [(match.b, [movement(match)]) for match in difference.moved]
    yield "Changed severity", [(match.b, [regrading(match)]) for match in difference.regraded]


def _differing(difference: Difference, found: Sequence[Finding], other: Recorded) -> list[tuple[Finding, list[str]]]:
    entries = []
    for finding in leading(found):
        _, message, remark = finding_line(difference, finding, other)
        entries.append((finding, [words for words in (message, symptoms_of(finding, found), remark) if words]))
    return entries


def _gradient(difference: Difference) -> Section | None:
    drawn = both_gradients(difference)
    if drawn is None:
        return None
    return Section(
        anchor="gradient",
        title="Gradient by depth",
        template="diff_gradient.html",
        context={"steps": f"steps {difference.first} to {difference.last}", "marks": drawn.marks},
        figures={"gradient-of-both": drawn.figure},
    )


def _layers(difference: Difference) -> Section:
    tables = []
    for measure in Measure:
        rows = [
            (layer(c), value(measure, c.a.median), value(measure, c.b.median), by(c))
            for c in difference.changes
            if c.measure is measure
        ]
        if rows:
            tables.append((MEASURE_WORDS[measure], rows[:MOST_ROWS], rows[MOST_ROWS:]))
    return Section(
        anchor="layers",
        title="Layers",
        template="diff_layers.html",
        context={"tables": tables, "bars": BARS_SENTENCE},
    )


def _modules(difference: Difference) -> Section:
    alignment = difference.alignment
    return Section(
        anchor="modules",
        title="Modules",
        template="diff_modules.html",
        context={
            "remarks": [*remarks(difference), over(difference)],
            "lists": [
                (f"all {counted(len(names), 'module')} only in {which}", names)
                for which, names in (("A", alignment.only_a), ("B", alignment.only_b))
                if len(names) > MOST_NAMES
            ],
        },
    )

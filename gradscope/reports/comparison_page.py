"""The page of a comparison, for a screen that a class looks at: the question, what came out, and how it looks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradscope import plugins
from gradscope.reports.comparison import ComparedVariant, Comparison
from gradscope.reports.comparison_figures import Picture, pictures
from gradscope.reports.comparison_lines import look
from gradscope.reports.comparison_maps import RAMP, Maps, maps
from gradscope.reports.comparison_words import (
    alike,
    codes_of,
    exact,
    findings_title,
    lacking,
    lesson_parts,
    lesson_title,
    numbers_of,
    right_and_wrong,
    without_finding,
)
from gradscope.reports.page import Section, page_of
from gradscope.reports.page_map import NONFINITE_COLOUR, ZERO_COLOUR
from gradscope.reports.verdict_words import counted

MOST_COLUMNS = 8  # of numbers beside each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One variant's line: what had to come out, and what did.

    Attributes:
        look: Colour, dash and marker of its lines.
        expected: In words.
        shown: What was found, and how that is to be taken: "right", "wrong" or "".
        right: Whether it came out as expected with every seed.
        share: With how many seeds it did; "" with one seed.
    """

    name: str
    look: tuple[str, str, str]
    expected: str
    shown: tuple[tuple[str, str], ...]
    right: bool
    share: str


def comparison_page(comparison: Comparison) -> str:
    """The whole document."""
    made: tuple[Section | None, ...] = (
        _question(comparison),
        _lesson(comparison),
        _numbers(comparison),
        _side_by_side(comparison),
        _maps(comparison),
        _exhibits(comparison),
        _findings(comparison),
        _about(comparison),
    )
    return page_of(comparison.name, [section for section in made if section is not None])


def _question(comparison: Comparison) -> Section:
    return Section(
        anchor="question",
        title=comparison.name,
        template="scenario_question.html",
        context={
            "question": comparison.question,
            "as_expected": comparison.as_expected,
            "outcomes": _outcomes(comparison),
            "complaints": [said for v in comparison.variants for said in v.complaints] if _several(comparison) else [],
        },
        scripts=("scenario.js",),
        styles=("scenario.css",),
        data={"variants": [variant.name for variant in comparison.variants]},
    )


def _several(comparison: Comparison) -> bool:
    return len(comparison.seeds) > 1


def _outcomes(comparison: Comparison) -> list[Outcome]:
    names = {getattr(rule, "code", ""): getattr(rule, "name", "") for rule in plugins.load("rules")}
    found = []
    for index, variant in enumerate(comparison.variants):
        right, wrong = right_and_wrong(variant)
        found.append(
            Outcome(
                name=variant.name,
                look=look(index),
                expected=_expected(variant, names),
                shown=tuple(_shown(variant, names)),
                right=not wrong,
                share=f"{right} of {right + wrong} seeds" if _several(comparison) else "",
            )
        )
    return found


def _expected(variant: ComparedVariant, names: Mapping[str, str]) -> str:
    if variant.expect:
        return f"must show {', '.join(_called(code, names) for code in sorted(variant.expect))}"
    if not names.keys() - variant.forbid:
        return "must show no finding at all"
    if not variant.forbid:
        return "anything"
    allowed = sorted(names.keys() - variant.forbid)
    what = ", ".join(allowed) if len(allowed) <= 4 else f"{len(allowed)} kinds"
    return f"must show no finding but, perhaps, {what}"


def _shown(variant: ComparedVariant, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    shares = codes_of(variant)
    for share in shares:
        text = share.text.replace(share.code, _called(share.code, names), 1)
        taken = "wrong" if share.forbidden else "right" if share.expected else ""
        yield (f"{text}: must not show" if share.forbidden else text), taken
    for code in sorted(variant.expect - {share.code for share in shares}):
        yield f"no {_called(code, names)}", "wrong"
    if not shares and not variant.expect:
        yield "no finding", "right"


def _called(code: str, names: Mapping[str, str]) -> str:
    return f"{code} {names[code]}" if names.get(code) else code


def _lesson(comparison: Comparison) -> Section:
    return Section(
        anchor="lesson",
        title="What it shows",
        template="scenario_lesson.html",
        context={"title": lesson_title(comparison), "parts": list(lesson_parts(comparison))},
    )


def _numbers(comparison: Comparison) -> Section:
    columns = numbers_of(comparison)
    tables = -(-len(columns) // MOST_COLUMNS)
    share = -(-len(columns) // tables)  # two tables of five columns, not one of eight and one of two
    parts = [columns[start : start + share] for start in range(0, len(columns), share)]
    rights = [not right_and_wrong(variant)[1] for variant in comparison.variants]
    seeds = f"Median and range of {counted(len(comparison.seeds), 'seed')}." if _several(comparison) else ""
    return Section(
        anchor="numbers",
        title="Numbers",
        template="scenario_numbers.html",
        context={
            "tables": [
                (
                    [column.head for column in part],
                    [
                        (variant.name, right, [column.cells[index] for column in part])
                        for index, (variant, right) in enumerate(zip(comparison.variants, rights, strict=True))
                    ],
                )
                for part in parts
            ],
            "note": seeds,
        },
    )


def _side_by_side(comparison: Comparison) -> Section | None:
    drawn = list(pictures(comparison))
    if not drawn:
        return None
    return Section(
        anchor="side-by-side",
        title="Side by side",
        template="scenario_figures.html",
        context={
            "variants": [(variant.name, look(index)) for index, variant in enumerate(comparison.variants)],
            "pictures": [(picture, _above(picture, comparison.variants)) for picture in drawn],
        },
        figures={picture.name: picture.figure for picture in drawn},
    )


def _above(picture: Picture, variants: Sequence[ComparedVariant]) -> str:
    """What leaves the figure at the top: an explosion is not to hide the others."""
    gone = [f"{variants[index].name} (up to {most:.2g})" for index, most in picture.above]
    return f"Goes on above the figure: {', '.join(gone)}." if gone else ""


def _maps(comparison: Comparison) -> Section | None:
    drawn = list(maps(comparison))
    if not drawn:
        return None
    figures = {_placed(one, index): made for one in drawn for index, made in enumerate(one.figures) if made is not None}
    return Section(
        anchor="maps",
        title="Over the steps",
        template="scenario_maps.html",
        context={
            "kinds": [(one, list(_panels(one, comparison.variants)), _without(one, comparison)) for one in drawn],
            "ramp": ", ".join(RAMP),
            "nonfinite_colour": NONFINITE_COLOUR,
            "zero_colour": ZERO_COLOUR,
            "seed": f"Seed {comparison.seeds[0]}." if _several(comparison) else "",
        },
        figures=figures,
    )


def _placed(one: Maps, index: int) -> str:
    return f"{one.name}-{index}"


def _panels(one: Maps, variants: Sequence[ComparedVariant]) -> Iterator[tuple[int, str, str]]:
    """Index and name of each variant that has a map, and its figure's name."""
    for index, (variant, made) in enumerate(zip(variants, one.figures, strict=True)):
        if made is not None:
            yield index, variant.name, _placed(one, index)


def _without(one: Maps, comparison: Comparison) -> str:
    names = [v.name for v, made in zip(comparison.variants, one.figures, strict=True) if made is None]
    return f"No such map, for lack of data: {' · '.join(names)}." if names else ""


def _exhibits(comparison: Comparison) -> Section | None:
    """The tables of exact numbers of the first seed."""
    tables = [
        (
            exhibit.title,
            variant.name,
            exhibit.heads,
            [[exact(cell, exhibit.decimals) for cell in row] for row in exhibit.rows],
            exhibit.note,
        )
        for variant in comparison.variants
        for exhibit in variant.runs[0].exhibits
    ]
    if not tables:
        return None
    return Section(
        anchor="exact", title="Number by number", template="scenario_exhibits.html", context={"tables": tables}
    )


def _findings(comparison: Comparison) -> Section:
    return Section(
        anchor="findings",
        title=findings_title(comparison),
        template="scenario_findings.html",
        context={"groups": alike(comparison), "healthy": without_finding(comparison)},
    )


def _about(comparison: Comparison) -> Section:
    traces = [run.trace for variant in comparison.variants for run in variant.runs]
    steps = sorted({len(trace.steps) for trace in traces})
    recorded = counted(steps[0], "step") if len(steps) == 1 else f"{steps[0]} to {steps[-1]} steps"
    return Section(
        anchor="about",
        title="About",
        template="scenario_about.html",
        context={
            "source": comparison.source,
            "recorded": f"{counted(len(comparison.variants), 'variant')}, "
            f"{counted(len(comparison.seeds), 'seed')}, {recorded} recorded of each",
            "lacking": lacking(comparison),
        },
    )

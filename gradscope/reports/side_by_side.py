"""A comparison for a person at a terminal: question, table, profiles on one axis, findings, lesson."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradscope.exhibits import Cell
from gradscope.reports.bars import Panel, chart_heading, draw_panels
from gradscope.reports.comparison import ComparedVariant, Comparison
from gradscope.reports.comparison_words import (
    Case,
    Number,
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
from gradscope.reports.diagnosis_text import HEALTHY_STYLE, SEVERITY_STYLE
from gradscope.reports.passage import joined_symbols
from gradscope.reports.profile import Profile, depth_story, time_profile
from gradscope.reports.terminal import ends_note, glyphs_for
from gradscope.reports.wide import heading

WRONG_STYLE = "bold red"
COLUMN_GAP = 2
SIGNS_IN_ASCII = {"-": "-", "nan": "-"}
NAME_WIDTH = 22
ONLY_A_LINE_UNDER_THE_HEAD = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
THE_SAME_IN_ASCII = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonReport:
    """What rich prints for a comparison."""

    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The numbers first, then the picture, then why."""
        comparison, glyphs = self.comparison, glyphs_for(options)
        said = ("as expected", HEALTHY_STYLE) if comparison.as_expected else ("not as expected", WRONG_STYLE)
        yield heading(comparison.name, Text(*said), options)
        yield Text(comparison.question, "bold italic")
        yield Text(comparison.source, "dim")
        for table in _tables(comparison, options):
            yield Text()
            yield table
        yield from _notes_on_table(comparison)
        yield from _exhibits(comparison, options)
        for title, panels in _charts(comparison):
            yield Text()
            yield chart_heading(title, options.max_width)
            yield from draw_panels(panels, options.max_width, glyphs)
        yield from _findings(comparison)
        yield from _not_judged(comparison)
        yield Text()
        yield Text(lesson_title(comparison), "bold")
        yield Padding(_lesson(comparison), (0, 0, 0, 2))


def _lesson(comparison: Comparison) -> Text:
    """The lesson, with a metric in backticks called as its column is."""
    return Text.assemble(*((part, "italic" if metric else "") for part, metric in lesson_parts(comparison)))


def _tables(comparison: Comparison, options: ConsoleOptions) -> Iterator[Table]:
    """One table; more where the numbers do not fit beside each other, each with the variants' names."""
    several, ascii_only = len(comparison.seeds) > 1, options.ascii_only
    names = _Column("", [_name(v, several, ascii_only) for v in comparison.variants], "left")
    numbers = [
        _Column(column.head, [_number(cell) for cell in column.cells])
        for column in numbers_of(comparison, arrow="->" if ascii_only else "→")
    ]
    for codes_in_a_line in (3, 2, 1):
        codes = _Column("findings", [_codes(v, codes_in_a_line) for v in comparison.variants], "left")
        if _width([names, codes, *numbers]) <= options.max_width:
            break
    tables = -(-_width([codes, *numbers]) // max(options.max_width - names.width - COLUMN_GAP, 1))
    share = -(-len(numbers) // tables)  # two tables of four columns, not one of seven and one of one
    columns, taken = [names, codes], 0
    for column in numbers:
        if taken and (taken == share or _width([*columns, column]) > options.max_width):
            yield _table(columns, ascii_only)
            columns, taken = [names], 0
        columns.append(column)
        taken += 1
    yield _table(columns, ascii_only)


def _width(columns: "Sequence[_Column]") -> int:
    return sum(column.width + COLUMN_GAP for column in columns) - COLUMN_GAP


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    cells: Sequence[Text]
    justify: str = "right"

    @property
    def width(self) -> int:
        words = [len(word) for word in self.head.split()]
        return max([0, *words, *(line.cell_len for cell in self.cells for line in cell.split())])


def _table(columns: Sequence[_Column], ascii_only: bool) -> Table:
    table = Table(
        box=THE_SAME_IN_ASCII if ascii_only else ONLY_A_LINE_UNDER_THE_HEAD,
        padding=(0, COLUMN_GAP - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        border_style="dim",
        header_style="dim",
    )
    for column in columns:
        table.add_column(column.head, justify=column.justify, vertical="top", width=column.width)  # type: ignore[arg-type]
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table


def _name(variant: ComparedVariant, several: bool, ascii_only: bool) -> Text:
    """Whether it came out as expected, its name and, with several seeds, how many of them did."""
    right, wrong = right_and_wrong(variant)
    mark = ("!!" if wrong else "ok") if ascii_only else ("✗" if wrong else "✓")
    share = f" {right}/{right + wrong}" if several else ""
    indent = " " * (len(mark) + 1)
    text = Text(fill(f"{mark} {variant.name}{share}", NAME_WIDTH, subsequent_indent=indent), "bold")
    text.stylize(WRONG_STYLE if wrong else HEALTHY_STYLE, 0, len(mark))
    return text


def _codes(variant: ComparedVariant, in_a_line: int) -> Text:
    """Codes of warnings and errors: expected ones bold, forbidden ones red, with the share of the seeds."""
    cells = [
        Text(share.text, WRONG_STYLE if share.forbidden else "bold" if share.expected else "")
        for share in codes_of(variant)
    ]
    if not cells:
        return Text("none", "green")
    return Text("\n").join(Text(" ").join(cells[i : i + in_a_line]) for i in range(0, len(cells), in_a_line))


def _number(number: Number) -> Text:
    """The median over the seeds, and under it their range."""
    if not number.middle:
        return Text("–", "dim")
    spread = f"\n{number.spread}" if number.spread else ""
    return Text.assemble((number.middle, WRONG_STYLE if number.diverged else ""), (spread, "dim"))


def _notes_on_table(comparison: Comparison) -> Iterator[Text]:
    if len(comparison.seeds) > 1:
        yield Text(f"median and range of {len(comparison.seeds)} seeds", "dim")
    for variant in comparison.variants:
        yield from (Text(sentence, WRONG_STYLE) for sentence in variant.complaints)


def _exhibits(comparison: Comparison, options: ConsoleOptions) -> Iterator[RenderableType]:
    """The tables of exact numbers of the first seed; columns that do not fit go on below, with the rows' names."""
    for variant in comparison.variants:
        for exhibit in variant.runs[0].exhibits:
            yield Text()
            yield Text.assemble((exhibit.title, "bold"), (f"   {variant.name}", "dim"))
            names, *others = (
                _Column(head, [_cell(row[index], exhibit.decimals, options.ascii_only) for row in exhibit.rows])
                for index, head in enumerate(exhibit.heads)
            )
            columns = [names]
            for column in others:
                if len(columns) > 1 and _width([*columns, column]) > options.max_width:
                    yield _table(columns, options.ascii_only)
                    columns = [names]
                columns.append(column)
            yield _table(columns, options.ascii_only)
            if exhibit.note:
                yield Text(exhibit.note, "dim")


def _cell(cell: Cell, decimals: int, ascii_only: bool) -> Text:
    """A number with its decimals, a vector's under each other in their columns; a zero has no sign."""
    parts = exact(cell, decimals, SIGNS_IN_ASCII if ascii_only else None)
    return Text(" ").join(Text(part.rjust(decimals + 3)) for part in parts) if isinstance(cell, tuple) else Text(*parts)


def _charts(comparison: Comparison) -> Iterator[tuple[str, list[Panel]]]:
    """Time first where there is one: a recurrent model has few layers and a long sequence."""
    times = [time_profile([run.trace for run in v.runs]) for v in comparison.variants]
    if any(times):
        yield f"Gradient {joined_symbols(p.symbol for p in times if p)} by time", _panels(comparison, times)
    depths = [depth_story([run.trace for run in v.runs]) for v in comparison.variants]
    if any(depths):
        yield "Gradient ∂L/∂y by depth", _panels(comparison, depths)


def _panels(comparison: Comparison, profiles: Sequence[Profile | None]) -> list[Panel]:
    return [
        Panel(
            Text(variant.name, "bold"),
            profile,
            frozenset(f.module for f in variant.runs[0].diagnosis.roots if f.module),
            ends_note(profile),
        )
        for variant, profile in zip(comparison.variants, profiles, strict=True)
        if profile is not None
    ]


def _findings(comparison: Comparison) -> Iterator[RenderableType]:
    """A group for each cause and remedy, with a line for each variant."""
    groups, healthy = alike(comparison), without_finding(comparison)
    if groups:
        yield Text()
        yield Text(findings_title(comparison), "bold")
    for index, cases in enumerate(groups):
        if index:
            yield Text()
        yield from _group(cases)
    if healthy:
        yield Text()
        yield Text.assemble(("no finding  ", HEALTHY_STYLE), " · ".join(healthy))


def _not_judged(comparison: Comparison) -> Iterator[RenderableType]:
    """The rules that lacked data, a line for what was missing."""
    lines = lacking(comparison)
    if not lines:
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(style="dim")
    for index, line in enumerate(lines):
        grid.add_row("" if index else "not judged", Text(line))
    yield Text()
    yield grid


def _group(cases: Sequence[Case]) -> Iterator[RenderableType]:
    first = cases[0].finding
    yield Text.assemble(
        "  ",
        (first.severity.value, SEVERITY_STYLE[first.severity]),
        f" {first.code} ",
        (first.pathology, "bold"),
    )
    body = Table.grid(padding=(0, 1))
    body.add_column(style="dim", no_wrap=True, min_width=6)
    body.add_column()
    for case in cases:
        hence = f"  hence {' '.join(case.hence)}" if case.hence else ""
        place = (f" {case.finding.module or '(model)'}: ", "cyan")
        body.add_row("", Text.assemble((case.variant, "bold"), " at", place, case.finding.message, (hence, "dim")))
    for label, text in (("cause", first.cause), ("remedy", first.remedy)):
        if text:
            body.add_row(label, Text(text))
    yield Padding(body, (0, 0, 0, 4))

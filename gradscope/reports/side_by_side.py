"""A comparison for a person at a terminal: question, table, profiles on one axis, findings, lesson."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradscope.exhibits import Cell
from gradscope.findings import Finding
from gradscope.reports.bars import Panel, chart_heading, draw_panels
from gradscope.reports.comparison import ComparedVariant, Comparison
from gradscope.reports.diagnosis_text import HEALTHY_STYLE, SEVERITY_STYLE
from gradscope.reports.passage import joined_symbols
from gradscope.reports.profile import Profile, depth_story, time_profile
from gradscope.reports.terminal import ends_note, glyphs_for
from gradscope.reports.wide import heading

WRONG_STYLE = "bold red"
NUMBER_FORMAT = ".3g"
COLUMN_GAP = 2
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
        yield Text(
            "What it shows" if comparison.as_expected else "What it shows where it comes out as expected", "bold"
        )
        yield Padding(_lesson(comparison), (0, 0, 0, 2))


def _lesson(comparison: Comparison) -> Text:
    """The lesson, with a metric in backticks called as its column is."""
    text = Text()
    for index, part in enumerate(comparison.lesson.split("`")):
        text.append(part.replace("_", " ") if index % 2 else part, "italic" if index % 2 else "")
    return text


def _tables(comparison: Comparison, options: ConsoleOptions) -> Iterator[Table]:
    """One table; more where the numbers do not fit beside each other, each with the variants' names."""
    several, ascii_only = len(comparison.seeds) > 1, options.ascii_only
    names = _Column("", [_name(v, several, ascii_only) for v in comparison.variants], "left")
    numbers = [_metric(comparison, name) for name in _metric_names(comparison)] + [_losses(comparison, ascii_only)]
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
    wrong = sum(
        bool(run.diagnosis.codes & variant.forbid or variant.expect - run.diagnosis.codes) for run in variant.runs
    )
    mark = ("!!" if wrong else "ok") if ascii_only else ("✗" if wrong else "✓")
    share = f" {len(variant.runs) - wrong}/{len(variant.runs)}" if several else ""
    indent = " " * (len(mark) + 1)
    text = Text(fill(f"{mark} {variant.name}{share}", NAME_WIDTH, subsequent_indent=indent), "bold")
    text.stylize(WRONG_STYLE if wrong else HEALTHY_STYLE, 0, len(mark))
    return text


def _codes(variant: ComparedVariant, in_a_line: int) -> Text:
    """Codes of warnings and errors: expected ones bold, forbidden ones red, with the share of the seeds."""
    seen = sorted({code for run in variant.runs for code in run.diagnosis.codes})
    cells = []
    for code in seen:
        count = sum(code in run.diagnosis.codes for run in variant.runs)
        style = WRONG_STYLE if code in variant.forbid else "bold" if code in variant.expect else ""
        cells.append(Text(code if count == len(variant.runs) else f"{code} {count}/{len(variant.runs)}", style))
    if not cells:
        return Text("none", "green")
    return Text("\n").join(Text(" ").join(cells[i : i + in_a_line]) for i in range(0, len(cells), in_a_line))


def _metric_names(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(name for v in comparison.variants for run in v.runs for name in run.metrics))


def _metric(comparison: Comparison, name: str) -> _Column:
    unit = comparison.units.get(name, NUMBER_FORMAT)
    cells = [_number([run.metrics.get(name, np.nan) for run in v.runs], unit) for v in comparison.variants]
    return _Column(name.replace("_", " "), cells)


def _losses(comparison: Comparison, ascii_only: bool) -> _Column:
    arrow = "->" if ascii_only else "→"

    def cell(variant: ComparedVariant) -> Text:
        first, last = (np.array([getattr(r, end) for r in variant.runs]) for end in ("loss_first", "loss_last"))
        diverged = not np.isfinite(last).all()
        return Text(f"{np.median(first):.3g}{arrow}{np.median(last):.3g}", WRONG_STYLE if diverged else "")

    return _Column("loss", [cell(v) for v in comparison.variants])


def _number(values: Sequence[float], unit: str) -> Text:
    """The median over the seeds, and under it their range."""
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return Text("–", "dim")
    middle = format(float(np.median(known)), unit)
    if len(values) == 1:
        return Text(middle)
    low, high = format(float(known.min()), unit), format(float(known.max()), unit)
    return Text.assemble(middle, ("" if low == high else f"\n{low}…{high}", "dim"))


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
    if isinstance(cell, str):
        return Text(cell)
    if isinstance(cell, tuple):
        return Text(" ").join(Text(_fixed(value, decimals, ascii_only).rjust(decimals + 3)) for value in cell)
    return Text(_fixed(cell, decimals, ascii_only))


def _fixed(value: float, decimals: int, ascii_only: bool) -> str:
    if np.isnan(value):
        return "-" if ascii_only else "–"
    text = format(value if round(value, decimals) else 0.0, f".{decimals}f")
    return text if ascii_only else text.replace("-", "−")


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
    """The roots of the first seed; those with the same cause and remedy stand together, a line for each variant."""
    groups: dict[tuple[str, str, str, str], list[tuple[str, Finding, Sequence[Finding]]]] = {}
    healthy = []
    for variant in comparison.variants:
        diagnosis = variant.runs[0].diagnosis
        if not diagnosis.findings:
            healthy.append(variant.name)
        for root in diagnosis.roots:
            key = (root.code, root.severity.value, root.cause, root.remedy)
            groups.setdefault(key, []).append((variant.name, root, diagnosis.symptoms_of(root)))
    if groups:
        yield Text()
        seed = f" of seed {comparison.seeds[0]}" if len(comparison.seeds) > 1 else ""
        yield Text(f"Findings{seed}", "bold")
    for index, (_, members) in enumerate(sorted(groups.items(), key=lambda item: -item[1][0][1].severity.rank)):
        if index:
            yield Text()
        yield from _group(members)
    if healthy:
        yield Text()
        yield Text.assemble(("no finding  ", HEALTHY_STYLE), " · ".join(healthy))


def _not_judged(comparison: Comparison) -> Iterator[RenderableType]:
    """The rules that lacked data, by what was missing; not judged is not clean."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for variant in comparison.variants:
        for item in variant.runs[0].diagnosis.not_judged:
            lacking.setdefault((item.rule, item.reason), []).append(variant.name)
    lines: dict[tuple[str, str], list[str]] = {}
    for (rule, reason), names in lacking.items():
        some = " · ".join(names) if len(names) <= 2 else f"{len(names)} of {len(comparison.variants)} variants"
        where = "" if len(names) == len(comparison.variants) else f" ({some})"
        lines.setdefault((reason, where), []).append(rule)
    if not lines:
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(style="dim")
    for index, ((reason, where), rules) in enumerate(lines.items()):
        grid.add_row("" if index else "not judged", Text(f"{', '.join(rules)}: {reason}{where}"))
    yield Text()
    yield grid


def _group(members: Sequence[tuple[str, Finding, Sequence[Finding]]]) -> Iterator[RenderableType]:
    first = members[0][1]
    yield Text.assemble(
        "  ",
        (first.severity.value, SEVERITY_STYLE[first.severity]),
        f" {first.code} ",
        (first.pathology, "bold"),
    )
    body = Table.grid(padding=(0, 1))
    body.add_column(style="dim", no_wrap=True, min_width=6)
    body.add_column()
    for name, finding, symptoms in members:
        hence = f"  hence {' '.join(_distinct(s.code for s in symptoms))}" if symptoms else ""
        place = (f" {finding.module or '(model)'}: ", "cyan")
        body.add_row("", Text.assemble((name, "bold"), " at", place, finding.message, (hence, "dim")))
    for label, text in (("cause", first.cause), ("remedy", first.remedy)):
        if text:
            body.add_row(label, Text(text))
    yield Padding(body, (0, 0, 0, 4))


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))

"""A difference for a person at a terminal: what appeared first, then what moved, the layers, the modules."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradscope.changes import Change, Measure
from gradscope.difference import Difference, Recorded
from gradscope.findings import Finding
from gradscope.reports.diagnosis_text import HEALTHY_STYLE, SEVERITY_STYLE
from gradscope.reports.difference_words import (
    BARS_SENTENCE,
    MEASURE_WORDS,
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
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.verdict_words import leading, place
from gradscope.reports.wide import heading

MOST_LAYERS = 8  # of one measure
_NAME_WIDTH = 40


@dataclass(frozen=True, slots=True, eq=False)
class DifferenceView:
    """What rich prints for a difference."""

    difference: Difference

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The runs, findings, layers, modules; of what does not differ nothing."""
        difference = self.difference
        worst = max((f.severity for f in difference.appeared), key=lambda s: s.rank, default=None)
        style = SEVERITY_STYLE[worst] if worst is not None else HEALTHY_STYLE if difference.is_empty else "bold"
        said, title = Text(headline(difference), style), "diff"
        if said.cell_len + len(title) + 5 <= options.max_width:
            yield heading(title, said, options)
        else:
            yield heading(title, Text(), options)
            yield said
        yield _runs(difference)
        for part in _findings(difference):
            yield Text()
            yield part
        yield from _layers(difference)
        yield Text()
        for remark in (*remarks(difference), over(difference)):
            yield Text(remark, "dim")


def _runs(difference: Difference) -> Table:
    table = Table.grid(padding=(0, 2))
    for letter, one in (("A", difference.a), ("B", difference.b)):
        table.add_row(Text(letter, "bold"), Text(on_one_line(one.name), "cyan", overflow="fold"), Text(about(one)))
    return table


def _findings(difference: Difference) -> Iterator[RenderableType]:
    for sign, title, found, other in (
        ("+", "appeared in B", difference.appeared, difference.a),
        ("-", "vanished from A", difference.vanished, difference.b),
    ):
        if found:
            yield _titled(title, _differing(difference, sign, found, other))
    for sign, title, matches, words in (
        ("~", "moved", difference.moved, movement),
        ("!", "changed severity", difference.regraded, regrading),
    ):
        if matches:
            yield _titled(title, (_entry(sign, match.b, [words(match)]) for match in matches))


def _titled(title: str, lines: Iterable[RenderableType]) -> RenderableType:
    grid = Table.grid()
    grid.add_row(Text(title, "bold"))
    for line in lines:
        grid.add_row(line)
    return grid


def _differing(
    difference: Difference, sign: str, found: Sequence[Finding], other: Recorded
) -> Iterator[RenderableType]:
    for finding in leading(found):
        _, message, remark = finding_line(difference, finding, other)
        yield _entry(sign, finding, [message, symptoms_of(finding, found), remark])


def _entry(sign: str, finding: Finding, below: Sequence[str]) -> RenderableType:
    """``+ error GS301 dead-units  act3`` and, indented, what is known of it."""
    style = SEVERITY_STYLE[finding.severity]
    grid = Table.grid()
    grid.add_row(
        Text.assemble(
            (f"{sign} ", "bold"),
            (finding.severity.value, style),
            f" {finding.title}  ",
            (place(on_one_line(finding.module)), "bold cyan"),
        )
    )
    for line in below:
        if line:
            grid.add_row(Padding(Text(" ".join(line.split())), (0, 0, 0, 4)))
    return Padding(grid, (0, 0, 0, 2))


def _layers(difference: Difference) -> Iterator[RenderableType]:
    """A table for each measure in which a layer has changed."""
    changes = difference.changes
    for measure in Measure:
        mine = [change for change in changes if change.measure is measure]
        if mine:
            yield Text()
            yield Text(MEASURE_WORDS[measure], "bold")
            yield Padding(_table(mine[:MOST_LAYERS]), (0, 0, 0, 2), expand=False)
            if len(mine) > MOST_LAYERS:
                yield Text(f"  and {len(mine) - MOST_LAYERS} more layers; --format json has all", "dim")
    if changes:
        yield Text()
        yield Text(BARS_SENTENCE, "dim")


def _table(changes: Sequence[Change]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right")
    table.add_row("", *(Text(head, "dim") for head in ("A", "B", "change")))
    for change in changes:
        numbers = [value(change.measure, side.median) for side in (change.a, change.b)]
        table.add_row(Text(shortened(layer(change), _NAME_WIDTH), "cyan"), *numbers, Text(by(change), "bold"))
    return table

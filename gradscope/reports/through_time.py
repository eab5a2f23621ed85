"""For a terminal: how far the gradient reaches back through each recurrent layer, a line for each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradscope.reports.bars import ASCII, BLOCKS, Glyphs, sparkline
from gradscope.reports.passage import Passage, column_medians, memory_words, passages
from gradscope.reports.profile import without_shared_prefix
from gradscope.trace import Doubles, Trace

LEAST_SPARK, MOST_SPARK, LEAST_NAME = 12, 40, 10
GAP = 2
CHANGED_MEMORY = 2.0  # from the first tenth of a run to its last: worth a line
IN_ASCII = str.maketrans({"→": "->", "≥": ">="})
MOST_LAYERS = 16
MOST_CONDITIONS = 3  # sentences; of more layers the numbers must do


def through_time(trace: Trace, width: int, glyphs: Glyphs = BLOCKS) -> Iterator[RenderableType]:
    """A heading, a line for each recurrent layer and direction, and what must be known beside; nothing if none."""
    found = passages(trace)
    if not found:
        return
    shown = found[:MOST_LAYERS]
    columns = [column for column in COLUMNS if any(column.cell(p) for p in shown)]
    left = width - sum(GAP + max(*map(len, column.head), *(len(column.cell(p)) for p in shown)) for column in columns)
    names = _names(shown, max(left - LEAST_SPARK - GAP, LEAST_NAME))
    spark = min(MOST_SPARK, max(p.times for p in shown), left - max(map(len, names)) - GAP)
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    for _ in columns:
        table.add_column(justify="right", no_wrap=True)
    for row in range(2):
        table.add_row("", "", *(Text(column.head[row], "dim") for column in columns))
    for name, passage in zip(names, shown, strict=True):
        line = sparkline(_medians(passage), max(spark, 1), glyphs)
        table.add_row(name, line, *(Text(column.cell(passage)) or Text("-", "dim") for column in columns))
    yield Text.assemble(("Through time", "bold"), ("   the gradient from the first position to the last", "dim"))
    yield table
    for note in notes(trace, shown):
        yield Padding(Text(note.translate(IN_ASCII) if glyphs is ASCII else note, "dim"), (0, 0, 0, 2))
    if shown != found:
        yield Text(f"  and {len(found) - len(shown)} more", "dim")


@dataclass(frozen=True, slots=True)
class Column:
    """A number of each layer: two words over it, and how it is written; "" where it is not known."""

    head: tuple[str, str]
    cell: Callable[[Passage], str]


def _written(value: float, digits: str = ".3g") -> str:
    return "" if np.isnan(value) else format(value, digits)


def _memory(factor: float) -> Callable[[Passage], str]:
    def cell(passage: Passage) -> str:
        memory = passage.memory(factor)
        return f">{passage.lag:.0f}" if memory > passage.lag else _written(memory, ".0f")

    return cell


COLUMNS = (
    Column(("gain", "a step"), lambda p: _written(p.gain())),
    Column(("to", "1/e"), _memory(float(np.exp(-1)))),
    Column(("to", "1e-3"), _memory(1e-3)),
    Column(("", "of"), lambda p: _written(p.lag, ".0f")),
    Column(("gate", "open"), lambda p: _written(p.forget, ".2f")),
    Column(("time", "const"), lambda p: _written(p.time_constant)),
    Column(("W", "radius"), lambda p: _written(p.spectral_radius)),
    Column(("W", "norm"), lambda p: _written(p.spectral_norm)),
)


def _names(shown: Sequence[Passage], longest: int) -> list[str]:
    names = without_shared_prefix([p.name for p in shown])
    return [name if len(name) <= longest else ".." + name[2 - longest :] for name in names]


def _medians(passage: Passage) -> Doubles:
    """Of what was finite: of a gradient that broke during the run the line shows how it was, and a note the rest."""
    return column_medians(passage.rms)[passage.seen.any(axis=0)]


def notes(trace: Trace, shown: Sequence[Passage]) -> Iterator[str]:
    """What must be known beside the numbers: changes over the run, what broke, cuts, and conditions that hold."""
    changes: dict[str, list[str]] = {}
    for passage in shown:
        first, last = (passage.memory(part=part) for part in ("first", "last"))
        if min(max(first, last), passage.lag) > CHANGED_MEMORY * min(first, last):
            memory = " → ".join(memory_words(m, passage.lag) for m in (first, last))
            gain = " → ".join(f"{passage.gain(part):.3g}" for part in ("first", "last"))
            changes.setdefault(f"memory {memory} over the run, gain {gain}", []).append(passage.name)
    for change, names in changes.items():
        yield f"{', '.join(names)}: {change}"
    for passage in shown:
        broken = int(passage.nonfinite.any(axis=1).sum())
        if broken:
            yield f"{passage.name}: NaN or Inf in {broken} of {len(passage.steps)} steps"
    for passage in shown:
        if passage.recurrence.cut.any():
            window = np.median(passage.recurrence.window[passage.recurrence.cut])
            yield f"{passage.name}: windows of {window:.0f} begin with a given state, to which no gradient goes back"
    loops = [p.name for p in shown if p.carried is None]
    if loops:
        yield f"{', '.join(loops)}: of a loop, gain and memory include what the loss adds at each step"
    if len(shown) <= MOST_CONDITIONS:
        for passage in shown:
            bounds = passage.recurrence.conditions().partition("; measured")[0]  # the table has the gain
            yield from [f"{passage.name}: {bounds}"] if bounds else []
    if any(p.recurrence.reverse for p in shown):
        yield "reverse: it ends at the first position, so its gradient travels to the right"
    modules = {p.recurrence.module for p in shown}
    for event in trace.events:
        if event.kind == "approximate" and event.module in modules:
            yield event.message

"""Where the gradient's decades go: a bar for each module, from the loss down to the input. They add up to the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gradscope.budget import Budget, budget_of, signed
from gradscope.errors import TraceError
from gradscope.reports.budget_text import Line, fitting, no_budget
from gradscope.reports.canvas import COLOURS, LETTER, SIZE, letters, styled, verbatim
from gradscope.reports.names import on_one_line, shortened
from gradscope.trace import Trace

SHRINKS, GROWS, BESIDE = COLOURS[0], COLOURS[4], "#b8b8b8"
MOST_BARS, FEWEST_BARS = 44, 4
MOST_NAME = 36
FEW_DECADES = 0.3  # where the largest bar is smaller, a third digit tells the others apart
INCHES_PER_BAR = 0.26
NUMBER, NUMBER_SIZE = 11, 0.694  # letters, with a gap; "x-small"
LABEL = {
    SHRINKS: "lost on the way back",
    GROWS: "gained",
    BESIDE: "within time, part of no sum",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One of them: its name, what it does in decades, and whether that is part of the sum."""

    name: str
    decades: float
    counts: bool = True


@styled
def budget_bars(trace: Trace, title: str = "") -> Figure:
    """The budget of a trace, as high as it has bars.

    Raises:
        TraceError: It has none; the message says why.
    """
    figure = Figure(figsize=(SIZE[0], height_of(known_budget(trace))), layout="constrained")
    axes = figure.add_subplot()
    patches = draw_budget(axes, trace)
    axes.set_title(verbatim(heading(known_budget(trace), title)))
    if len(patches) > 1:
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    return figure


def known_budget(trace: Trace) -> Budget:
    """The budget of a trace.

    Raises:
        TraceError: It has none; the message says why.
    """
    budget = budget_of(trace)
    if budget is None:
        raise TraceError(f"{no_budget(trace)}.")
    return budget


def heading(budget: Budget, title: str = "") -> str:
    """``MLP: −10.4 decades between head and stem``."""
    late, early = (shortened(on_one_line(name), 24) for name in (budget.late, budget.early))
    said = f"{signed(budget.decades)} decades between {late} and {early}"
    return f"{title}: {said}" if title else said


def height_of(budget: Budget) -> float:
    """Of a figure in which its bars' names can be read, in inches."""
    return max(SIZE[1], 1.8 + INCHES_PER_BAR * len(bars_of(budget)))


def bars_that_fit(axes: Axes) -> int:
    """How many bars have room for their names."""
    return max(min(int(letters(axes, "y") * LETTER / 1.2), MOST_BARS), FEWEST_BARS)


def draw_budget(axes: Axes, trace: Trace, most: int = MOST_BARS) -> list[Patch]:
    """The bars, `most` at most, on given axes. Raises as `known_budget`.

    Returns:
        What a legend says of the colours.
    """
    budget = known_budget(trace)
    bars = bars_of(budget, most)
    where = np.arange(len(bars))
    sizes = np.array([bar.decades for bar in bars])
    colours = [_colour(bar) for bar in bars]
    digits = 2 if np.abs(sizes).max() > FEW_DECADES else 3
    axes.barh(where, sizes, color=colours, height=0.75)
    for at, bar in enumerate(bars):
        away, side = (4, "left") if bar.decades >= 0 else (-4, "right")
        place = {"xytext": (away, 0), "textcoords": "offset points", "ha": side, "va": "center"}
        axes.annotate(signed(bar.decades, digits), (bar.decades, at), fontsize="x-small", **place)  # type: ignore[arg-type]
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(where, [verbatim(shortened(bar.name, MOST_NAME)) for bar in bars], fontsize="small")
    axes.set_ylim(len(bars) - 0.4, -0.6)  # the loss at the top
    axes.set_xlim(*_with_room(axes, min(sizes.min(), 0.0), max(sizes.max(), 0.0)))
    axes.grid(False, axis="y")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, min_n_ticks=3))
    counted = f"{len(budget.rows)} of {max(budget.recorded, len(budget.rows))} steps"
    axes.set_xlabel(f"decades: log₁₀ of ‖∂L/∂x‖ / ‖∂L/∂y‖,\nmean over {counted}")
    axes.set_ylabel("module, from the loss back")
    return [Patch(color=colour, label=label) for colour, label in LABEL.items() if colour in colours]


def bars_of(budget: Budget, most: int = MOST_BARS) -> list[Bar]:
    """The terms; where there are more than `most`, modules of one container are one bar, or the smallest are one."""
    beside = [
        Bar(on_one_line(f"{inner.module} in time"), inner.decades, False) for t in budget.beside for inner in t.within
    ]
    return [*_leaves(fitting(budget.terms, most)), *beside]


def _leaves(lines: Sequence[Line]) -> Iterator[Bar]:
    """The lines with no other line of the sum under them, by their whole names."""
    counting = [line for line in lines if line.counts]
    above: list[str] = []
    for line, after in zip(counting, [*counting[1:], None], strict=True):
        del above[line.level :]
        if after is not None and after.level > line.level:
            above.append(line.name)
        elif not np.isnan(line.decades):
            yield Bar(on_one_line(_whole(above, line)), line.decades)


def _whole(above: Sequence[str], line: Line) -> str:
    """``blocks.0.fc``; of what has no module of its own ``blocks.0: add``."""
    has_module = line.what not in ("", "functions") or ": " in line.name
    return ("." if has_module else ": ").join([*[".".join(above)] * bool(above), line.name])


def _colour(bar: Bar) -> str:
    if not bar.counts:
        return BESIDE
    return SHRINKS if bar.decades < 0 else GROWS


def _with_room(axes: Axes, low: float, high: float) -> tuple[float, float]:
    """The limits of the bars with room for a number beside the longest of either side."""
    sides = (low < 0) + (high > 0)
    share = min(NUMBER / letters(axes, "x", NUMBER_SIZE), 0.3)
    pad = (high - low or 1.0) * share / (1 - sides * share)
    return low - (pad if low < 0 else 0.0), high + (pad if high > 0 else 0.0)

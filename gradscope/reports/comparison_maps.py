"""The variants of a comparison as small maps beside each other, in the same colours: layer or position over steps.

A cell that stands for several steps or places shows the extreme among them; NaN or Inf, and exactly zero, have colours
of their own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from bokeh.models import (
    AdaptiveTicker,
    ColumnDataSource,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    Image,
    LinearColorMapper,
    PlainText,
    Range1d,
)
from bokeh.models.annotations import Span
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from gradscope.records import Quantity
from gradscope.reports.comparison import Comparison
from gradscope.reports.comparison_lines import enlarged
from gradscope.reports.decades import ends_of_colours
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.page_figure import NEUTRAL, plain_figure
from gradscope.reports.page_map import NONFINITE_COLOUR, ZERO_COLOUR
from gradscope.reports.passage import Passage, joined_symbols, passages
from gradscope.reports.profile import FEWEST_TIMES, SYMBOL, depth_story, layers, place, without_shared_prefix
from gradscope.reports.shrink import Cells, shrunk_both_ways, starts_of
from gradscope.trace import Ints, Trace

MOST_ROWS, MOST_COLUMNS, FEWEST_COLUMNS = 100, 160, 20
MOST_CELLS = 120_000  # of all maps of one kind: a page stays small
HEIGHT = 300
MOST_NAMES, LONGEST = 6, 12  # places that are named beside one map, and letters of a name
RAMP: Final = tuple(Viridis256[round(i * 255 / 12)] for i in range(13))
_CLEAR: Final = "#00000000"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """The numbers of one variant.

    Attributes:
        steps: Numbers of the recorded steps.
        cells: Shape (place, step).
        places: A name for each place, from the bottom up.
        floors: Of stacked layers, where each begins, with its name.
    """

    steps: Ints
    cells: Cells
    places: tuple[str, ...]
    floors: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Maps:
    """All variants' maps of one kind.

    Attributes:
        name: Unique in the page.
        title: What they show.
        symbol: Whose rms.
        upwards: What the rows are.
        low: log₁₀ at which the colours begin.
        high: And end.
        figures: By the variant's index; None for a variant without numbers.
        broken: Whether some cell has NaN or Inf.
        zero: Whether some cell is exactly zero.
        blocks: What a cell stands for; "" for one step and one place.
    """

    name: str
    title: str
    symbol: str
    upwards: str
    low: float
    high: float
    figures: tuple[figure | None, ...]
    broken: bool
    zero: bool
    blocks: str


def maps(comparison: Comparison) -> Iterator[Maps]:
    """By time where there are sequences, by depth where the depth is what matters; of the first seed."""
    runs = [variant.runs[0].trace for variant in comparison.variants]
    found = [[p for p in passages(run) if p.times >= FEWEST_TIMES] for run in runs]
    if any(found):
        symbol = joined_symbols(p.symbol for stacked in found for p in stacked)
        grids = [_stacked(stacked) if stacked else None for stacked in found]
        yield _maps("time", f"Gradient {symbol} by time and step", symbol, "position, start at the bottom", grids)
    deep = [bool(depth_story([run.trace for run in variant.runs])) for variant in comparison.variants]
    if any(deep):
        symbol = SYMBOL[Quantity.OUTPUT_GRAD]
        grids = [_by_depth(run) if story else None for run, story in zip(runs, deep, strict=True)]
        yield _maps("depth", f"Gradient {symbol} by depth and step", symbol, "layer, input at the bottom", grids)


def _by_depth(trace: Trace) -> Grid:
    found = layers(trace, Quantity.OUTPUT_GRAD)
    cells = Cells(values=found.values.T, nonfinite=found.nonfinite.T, seen=found.seen.T)
    names = without_shared_prefix([on_one_line(place(site)) for site in found.sites])
    return Grid(steps=trace.steps, cells=cells, places=tuple(names))


def _stacked(found: Sequence[Passage]) -> Grid:
    """The first layer at the bottom; within each, the start of the sequence."""
    starts = np.cumsum([0, *(p.times for p in found)])
    values, nonfinite, seen = (
        np.concatenate([part.T for part in each])
        for each in ([p.rms for p in found], [p.nonfinite for p in found], [p.seen for p in found])
    )
    return Grid(
        steps=found[0].steps,
        cells=Cells(values=values, nonfinite=nonfinite, seen=seen),
        places=tuple(str(t) for p in found for t in range(p.times)),
        floors=tuple(zip(starts[:-1].tolist(), (on_one_line(p.name) for p in found), strict=True))
        if len(found) > 1
        else (),
    )


def _maps(name: str, title: str, symbol: str, upwards: str, grids: Sequence[Grid | None]) -> Maps:
    known = [grid for grid in grids if grid is not None]
    low, high = ends_of_colours(np.concatenate([g.cells.values[~g.cells.nonfinite] for g in known]))
    last = max((int(grid.steps[-1]) for grid in known if len(grid.steps)), default=0)
    columns = max(FEWEST_COLUMNS, min(MOST_COLUMNS, MOST_CELLS // sum(min(len(g.places), MOST_ROWS) for g in known)))
    small = [None if grid is None else _smaller(grid, columns) for grid in grids]
    most = [
        (max(len(g.steps) for g in known), columns, "steps"),
        (max(len(g.places) for g in known), MOST_ROWS, "rows"),
    ]
    blocks = " × ".join(f"up to {math.ceil(n / fits)} {what}" for n, fits, what in most if n > fits)
    return Maps(
        name=f"maps-{name}",
        title=title,
        symbol=symbol,
        upwards=upwards,
        low=low,
        high=high,
        figures=tuple(None if grid is None else _drawn(grid, low, high, last, upwards) for grid in small),
        broken=any(g.cells.nonfinite.any() for g in known),
        zero=any((_special(g.cells) == 0).any() for g in known),
        blocks=blocks,
    )


def _smaller(grid: Grid, columns: int) -> Grid:
    """With fewer cells; the first and the last step are where they were."""
    steps, rows = starts_of(len(grid.steps), columns), starts_of(len(grid.places), MOST_ROWS)
    if len(steps) == len(grid.steps) and len(rows) == len(grid.places):
        return grid
    return replace(
        grid,
        cells=shrunk_both_ways(grid.cells, steps, rows),
        places=tuple(grid.places[row] for row in rows),
        floors=tuple((int(np.searchsorted(rows, start)), name) for start, name in grid.floors),
    )


def _special(cells: Cells) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """0 for exactly zero, 1 for NaN or Inf, else NaN."""
    special = np.where((cells.values == 0) & cells.seen, np.float32(0), np.float32(np.nan))
    return np.where(cells.nonfinite, np.float32(1), special)


def _drawn(grid: Grid, low: float, high: float, last: int, upwards: str) -> figure:
    rows = len(grid.cells.values)
    every = float(np.median(np.diff(grid.steps))) if len(grid.steps) > 1 else 1.0
    first = float(grid.steps[0]) - every / 2
    drawn = plain_figure(height=HEIGHT, x_label="step", y_label=upwards)
    drawn.x_range = Range1d(start=first, end=max(last, int(grid.steps[-1])) + every / 2)
    drawn.y_range = Range1d(start=0, end=rows)
    drawn.grid.visible = False
    enlarged(drawn, axis=15, ticks=14)
    logs = grid.cells.logs().astype(np.float32)
    images = {"image": (logs, LinearColorMapper(palette=Viridis256, low=low, high=high, nan_color=_CLEAR))}
    special = _special(grid.cells)
    if not np.isnan(special).all():
        colours = [ZERO_COLOUR, NONFINITE_COLOUR]
        images["special"] = (special, LinearColorMapper(palette=colours, low=0, high=1, nan_color=_CLEAR))
    width = float(grid.steps[-1]) + every / 2 - first
    for name, (values, mapper) in images.items():
        source = ColumnDataSource({name: [values]})
        shown = drawn.add_glyph(source, Image(image=name, x=first, y=0, dw=width, dh=rows, color_mapper=mapper))
        if name == "image":
            drawn.add_tools(_hover(grid, [shown]))
    _outline(drawn, grid, first, width)
    _name_rows(drawn, grid)
    drawn.xaxis.ticker = AdaptiveTicker(min_interval=1, desired_num_ticks=4, mantissas=[1, 2, 5])
    return drawn


def _outline(drawn: figure, grid: Grid, first: float, width: float) -> None:
    """A square where a row breaks: it is seen however small the cells are."""
    broken = grid.cells.nonfinite
    row, column = np.nonzero(broken & ~np.pad(broken, ((0, 0), (1, 0)))[:, :-1])
    some = starts_of(len(row), 2 * MOST_ROWS)
    across = width / broken.shape[1]
    drawn.scatter(
        first + (column[some] + 0.5) * across, row[some] + 0.5, marker="square", size=5, color=NONFINITE_COLOUR
    )


def _hover(grid: Grid, shown: list[object]) -> HoverTool:
    names = CustomJSHover(
        args={"names": list(grid.places)},
        code="return names[Math.min(names.length - 1, Math.max(0, Math.floor(value)))]",
    )
    size = CustomJSHover(code="return Number.isNaN(value) ? '–' : (10 ** value).toExponential(2)")
    return HoverTool(
        renderers=shown,  # type: ignore[arg-type]  # glyph renderers
        tooltips=[("step", "$x{0}"), ("at", "$y{custom}"), ("rms", "@image{custom}")],
        formatters={"$y": names, "@image": size},
        visible=False,
    )


def _name_rows(drawn: figure, grid: Grid) -> None:
    """Every n-th place by name, or each of stacked layers with a line between them."""
    if grid.floors:
        ends = [*(start for start, _ in grid.floors[1:]), len(grid.places)]
        named = {(start + end) / 2: name for (start, name), end in zip(grid.floors, ends, strict=True)}
        for end in ends[:-1]:
            drawn.add_layout(Span(location=end, dimension="width", line_color=NEUTRAL, line_width=2))
    else:
        some = range(0, len(grid.places), math.ceil(len(grid.places) / MOST_NAMES))
        named = {row + 0.5: grid.places[row] for row in some}
    drawn.yaxis.ticker = FixedTicker(ticks=list(named))
    drawn.yaxis.major_label_overrides = {at: PlainText(text=shortened(name, LONGEST)) for at, name in named.items()}

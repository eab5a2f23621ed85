"""Time over the steps of one recurrent layer, as a page carries it: a figure without numbers, and those as codes.

A cell that stands for several steps or positions shows the extreme among them, and what is NaN or infinite is marked
besides, so it is seen however small the figure is.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    CustomJSTickFormatter,
    HoverTool,
    Image,
    LinearColorMapper,
    Range1d,
)
from bokeh.models.annotations import ColorBar, Span
from bokeh.models.renderers import GlyphRenderer
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from gradscope.findings import Json
from gradscope.reports.codes import encoded
from gradscope.reports.page_figure import NEUTRAL, plain_figure
from gradscope.reports.page_map import NONFINITE_COLOUR, ZERO_COLOUR
from gradscope.reports.passage import Passage
from gradscope.reports.shrink import Cells, shrunk_both_ways, starts_of
from gradscope.trace import Ints

MOST_ROWS, MOST_COLUMNS = 200, 360  # as many as have a pixel each on a narrow screen
ALL_COLUMNS = 4000  # of all layers together: a page stays small
_HEIGHT: Final = 300
_CLEAR: Final = "#00000000"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimeMap:
    """What the section places.

    Attributes:
        figure: Whose image its script fills.
        grid: The codes, (position, step).
        shrunk: What one cell stands for, "" where it is one step and one position.
    """

    figure: figure
    grid: dict[str, Json]
    shrunk: str


def time_map(passage: Passage, name: str, *, columns: int = MOST_COLUMNS) -> TimeMap:
    """The map of one layer and direction; `name` is the figure's, its source's and that of the JSON document."""
    cells = Cells(values=passage.rms.T, nonfinite=passage.nonfinite.T, seen=passage.seen.T)
    steps, times = starts_of(len(passage.steps), columns), starts_of(passage.times, MOST_ROWS)
    cells = shrunk_both_ways(cells, steps, times)
    of = [
        f"{-(-whole // blocks)} {what}"
        for what, whole, blocks in (("steps", len(passage.steps), len(steps)), ("positions", passage.times, len(times)))
        if whole > blocks
    ]
    return TimeMap(
        figure=_drawn(passage, cells, steps, times, name),
        grid=encoded(cells.values, cells.nonfinite, cells.seen),
        shrunk=" × ".join(f"up to {one}" for one in of),
    )


def _drawn(passage: Passage, cells: Cells, steps: Ints, times: Ints, name: str) -> figure:
    rows, columns = cells.values.shape
    drawn = plain_figure(height=_HEIGHT, x_label="step", y_label="position in the sequence")
    drawn.x_range = Range1d(start=-0.5, end=columns - 0.5)
    drawn.y_range = Range1d(start=-0.5, end=rows - 0.5)
    drawn.grid.visible = False
    nothing = np.zeros((1, 1), np.float32)
    source = ColumnDataSource({"image": [nothing], "special": [nothing], "code": [nothing]}, name=name)
    low, high = _limits(cells)
    mapper = LinearColorMapper(palette=Viridis256, low=low, high=high, nan_color=_CLEAR)
    special = LinearColorMapper(palette=[ZERO_COLOUR, NONFINITE_COLOUR], low=0, high=1, nan_color=_CLEAR)
    shown, _ = (
        drawn.add_glyph(source, Image(image=image, x=-0.5, y=-0.5, dw=columns, dh=rows, color_mapper=colours))
        for image, colours in (("image", mapper), ("special", special))
    )
    broken = np.flatnonzero(cells.nonfinite.any(axis=0))
    at = cells.nonfinite[:, broken].argmax(axis=0)
    drawn.scatter(broken.tolist(), at.tolist(), marker="square", size=5, color=NONFINITE_COLOUR)
    for cut in passage.cuts:
        drawn.add_layout(
            Span(
                location=int(np.searchsorted(times, cut)) - 0.5,
                dimension="width",
                line_color=NEUTRAL,
                line_dash="dashed",
            )
        )
    _name_axes(drawn, passage, steps, times)
    drawn.add_tools(_hover(shown, passage, steps, times, name))
    bar = ColorBar(
        color_mapper=mapper,
        width=14,
        background_fill_alpha=0,
        major_label_text_color=NEUTRAL,
        title="log₁₀ rms",
        title_text_color=NEUTRAL,
        title_text_font_style="normal",
    )
    drawn.add_layout(bar, "right")
    return drawn


def _limits(cells: Cells) -> tuple[float, float]:
    """Where the colours begin and end: but for a few cells, which must not leave one colour for all others."""
    known = cells.values[cells.positive]
    if not len(known):
        return -1.0, 0.0
    low, high = np.log10(np.quantile(known, [0.002, 0.99]))
    return float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))


def _name_axes(drawn: figure, passage: Passage, steps: Ints, times: Ints) -> None:
    """Steps and positions instead of the numbers of columns and rows."""
    for axis, first in ((drawn.xaxis, passage.steps[steps]), (drawn.yaxis, times)):
        axis.formatter = CustomJSTickFormatter(
            args={"first": first.tolist()}, code="return gradscope.time.at(first, tick)"
        )


def _hover(shown: "GlyphRenderer[Image]", passage: Passage, steps: Ints, times: Ints, name: str) -> HoverTool:
    def block(first: Ints, last: Ints) -> CustomJSHover:
        return CustomJSHover(
            args={"first": first.tolist(), "last": last.tolist()},
            code="return gradscope.time.block(first, last, value)",
        )

    ends = np.append(steps[1:], len(passage.steps)) - 1, np.append(times[1:], passage.times) - 1
    return HoverTool(
        renderers=[shown],
        tooltips=[("step", "$x{custom}"), ("position", "$y{custom}"), (f"rms of {passage.symbol}", "@code{custom}")],
        formatters={
            "$x": block(passage.steps[steps], passage.steps[ends[0]]),
            "$y": block(times, ends[1]),
            "@code": CustomJSHover(args={"name": name}, code="return gradscope.time.text(name, value)"),
        },
    )

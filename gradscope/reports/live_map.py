"""The map of the layers while a training runs: the grid of the report's map, drawn anew as it grows.

In the report the page draws it by itself, at any zoom; here the numbers come from a server. So the image has a cell for
each cell of the grid, and what is zero, NaN or infinite lies beyond the ends of the colours.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    Image,
    LinearColorMapper,
    Range1d,
)
from bokeh.models.annotations import ColorBar
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from gradscope.findings import Diagnosis
from gradscope.reports.layer_grid import LayerGrid, Plane
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.page_figure import NEUTRAL, plain_figure
from gradscope.reports.page_map import NONFINITE_COLOUR, ZERO_COLOUR
from gradscope.reports.shrink import Cells
from gradscope.trace import Floats

_BEYOND: Final = 1e6  # decades: no number lies there
_MOST_NAMES, _MOST_STEPS = 30, 6
_NAME_WIDTH = 28
_ROW_HEIGHT, _LEAST_HEIGHT, _MOST_HEIGHT = 18, 260, 620
_NAME_OF_ROW = """
const names = rows.data.name;
return names[Math.floor(special_vars.y)] ?? "";
"""


@dataclass(slots=True)
class LiveMap:
    """A figure and what is in it."""

    drawn: figure
    image: ColumnDataSource
    broken: ColumnDataSource
    found: ColumnDataSource
    chosen: ColumnDataSource
    rows: ColumnDataSource
    colours: LinearColorMapper

    def show(self, grid: LayerGrid, plane: Plane, diagnosis: Diagnosis | None, chosen: int) -> None:
        """Draws `plane`; the layer in row `chosen` is framed."""
        cells = grid.planes[plane]
        count, columns = cells.values.shape
        coloured, (low, high) = _coloured(cells, log=plane.scale == "log")
        self.colours.update(low=low, high=high)
        self.image.data = {"image": [coloured], "x": [0], "y": [0], "dw": [columns], "dh": [count]}
        begins = cells.nonfinite & ~np.concatenate([np.zeros((count, 1), bool), cells.nonfinite[:, :-1]], axis=1)
        row, column = np.nonzero(begins)
        self.broken.data = {"x": (column + 0.5)[:2000], "y": (row + 0.5)[:2000]}
        self.found.data = _marks(grid, diagnosis)
        self.chosen.data = {"y": [chosen + 0.5], "height": [1], "right": [columns]}
        names = [on_one_line(layer.module or "(model)") for layer in grid.layers]
        if list(self.rows.data["name"]) != names:
            self.rows.data = {"name": names}
            self.drawn.height = int(np.clip(_ROW_HEIGHT * count + 90, _LEAST_HEIGHT, _MOST_HEIGHT))
            self.drawn.y_range.update(start=0, end=count)
            every = -(-count // _MOST_NAMES)
            _label(self.drawn, "left", {at + 0.5: shortened(names[at], _NAME_WIDTH) for at in range(0, count, every)})
        self.drawn.x_range.update(start=0, end=columns)
        every = max(1, columns // _MOST_STEPS)
        _label(self.drawn, "below", {at + 0.5: f"{grid.first[at]}" for at in range(0, columns, every)})


def live_map() -> LiveMap:
    """An empty map."""
    drawn = plain_figure(height=_LEAST_HEIGHT, x_label="step", y_label="layer, input at the bottom")
    drawn.x_range, drawn.y_range = Range1d(start=0, end=1), Range1d(start=0, end=1)
    drawn.grid.visible = False
    image = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
    colours = LinearColorMapper(
        palette=Viridis256,
        low=0,
        high=1,
        low_color=ZERO_COLOUR,
        high_color=NONFINITE_COLOUR,
        nan_color="rgba(0, 0, 0, 0)",
    )
    glyph = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=colours)
    shown = drawn.add_glyph(image, glyph)
    broken, found = ColumnDataSource({"x": [], "y": []}), ColumnDataSource({"x": [], "y": []})
    drawn.scatter("x", "y", source=broken, marker="square", size=5, color=NONFINITE_COLOUR, line_color=None)
    for width, colour in ((5, "#ffffff"), (2, "#000000")):
        drawn.scatter("x", "y", source=found, marker="x", size=12, line_color=colour, line_width=width)
    chosen = ColumnDataSource({"y": [], "height": [], "right": []})
    drawn.hbar(
        y="y", height="height", left=0, right="right", source=chosen, fill_alpha=0, line_color="#ff9d00", line_width=2
    )
    rows = ColumnDataSource({"name": []})
    name_of_row = CustomJSHover(args={"rows": rows}, code=_NAME_OF_ROW)
    drawn.add_tools(
        HoverTool(
            renderers=[shown], tooltips=[("layer", "$y{custom}"), ("value", "@image")], formatters={"$y": name_of_row}
        )
    )
    bar = ColorBar(color_mapper=colours, width=14, background_fill_alpha=0, major_label_text_color=NEUTRAL)
    drawn.add_layout(bar, "right")
    return LiveMap(drawn, image, broken, found, chosen, rows, colours)


def _coloured(cells: Cells, *, log: bool) -> tuple[Floats, tuple[float, float]]:
    """What the colours stand for, and their ends: all numbers but a few, which must not leave one colour for them."""
    values, seen, nonfinite = cells.values, cells.seen, cells.nonfinite
    known = seen & ~nonfinite & np.isfinite(values) & ((values > 0) if log else True)
    numbers = np.log10(values, where=known, out=np.full(values.shape, np.nan)) if log else values
    low, high = 0.0, 1.0
    if log and known.any():
        low, high = (float(end) for end in np.quantile(numbers[known], (0.002, 0.99)))
        low, high = np.floor(low), max(np.ceil(high), np.floor(low) + 1)
    coloured = np.where(known, np.clip(numbers, low, high), np.nan)
    coloured[seen & ~nonfinite & (values == 0) & log] = -_BEYOND
    coloured[seen & (nonfinite | np.isinf(values))] = _BEYOND
    return coloured.astype(np.float32), (float(low), float(high))


def _marks(grid: LayerGrid, diagnosis: Diagnosis | None) -> dict[str, list[float]]:
    """Where findings begin, each at the first of its layers."""
    x, y = [], []
    for finding in diagnosis.findings if diagnosis is not None else ():
        for module in finding.modules:
            row = next((i for i, layer in enumerate(grid.layers) if layer.module == module), None)
            if row is not None:
                column = max(0, int(np.searchsorted(grid.first, finding.first_step, side="right")) - 1)
                x.append(column + 0.5)
                y.append(row + 0.5)
    return {"x": x, "y": y}


def _label(drawn: figure, side: str, labels: dict[float, str]) -> None:
    axis = drawn.xaxis[0] if side == "below" else drawn.yaxis[0]
    axis.ticker = FixedTicker(ticks=list(labels))
    axis.major_label_overrides = {at: label for at, label in labels.items()}  # noqa: C416 (of a wider type)

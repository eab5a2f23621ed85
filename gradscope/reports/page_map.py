"""The map of a page: layers over steps, coloured by how large a quantity is, with the findings on it.

The page carries the numbers (`layer_grid`); what is drawn of them at a zoom, what the pointer is on and which layer's
story is told is the business of `page/map.js`. Here are the empty figures that it fills.
"""

from typing import Final

import numpy as np
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
    FixedTicker,
    LinearColorMapper,
    LogTicker,
    Range1d,
)
from bokeh.models.annotations import ColorBar
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from gradscope.findings import Diagnosis, Finding, Json
from gradscope.reports.layer_grid import Layer, LayerGrid, Plane, layer_grid
from gradscope.reports.page import Section
from gradscope.reports.page_figure import COLOURS, NEUTRAL, plain_figure
from gradscope.trace import Trace

RASTER: Final = (360, 720)  # cells that are drawn at any zoom: rows, columns
NONFINITE_COLOUR, ZERO_COLOUR = "#ff2d95", "#4a4f57"  # unlike anything in viridis
_ROW_HEIGHT, _LEAST_HEIGHT, _MOST_HEIGHT = 18, 260, 620
_MARKS: Final = {"error": "x", "warning": "triangle", "info": "circle"}


def map_section(trace: Trace, diagnosis: Diagnosis) -> Section | None:
    """The map with the story of one layer under it; None where no layer was observed."""
    grid = layer_grid(trace)
    if grid is None:
        return None
    marked = _marked(grid, diagnosis)
    return Section(
        anchor="map",
        title="Map of the layers",
        template="map.html",
        context={
            "planes": [plane.label for plane in grid.planes],
            "layers": [layer.module or "(model)" for layer in grid.layers],
            "columns": len(grid.first),
            "steps": len(trace.steps),
            "nonfinite_colour": NONFINITE_COLOUR,
            "zero_colour": ZERO_COLOUR,
        },
        figures={"map": _map(grid)}
        | {f"story-{plane.key}": _story(plane, int(trace.steps[0]), int(trace.steps[-1])) for plane in grid.planes},
        data={"layers": grid.to_dict(), "marks": marked},
        scripts=("codes.js", "layers.js", "map.js", "story.js"),
    )


def _marked(grid: LayerGrid, diagnosis: Diagnosis) -> Json:
    """The findings with the rows that they speak of; one of a container stands at its first layer."""
    return [
        {
            "rows": _rows(grid.layers, finding),
            "severity": finding.severity.value,
            "role": finding.role.value,
            "title": finding.title,
            "message": finding.message,
            "first": finding.first_step,
            "last": finding.last_step,
        }
        for finding in diagnosis.findings
    ]


def _rows(layers: tuple[Layer, ...], finding: Finding) -> list[Json]:
    rows = []
    for module in finding.modules:
        inside = [i for i, layer in enumerate(layers) if layer.module == module]
        inside = inside or [i for i, layer in enumerate(layers) if module and layer.module.startswith(f"{module}.")]
        rows += inside[:1]
    return [*dict.fromkeys(rows)]


def _map(grid: LayerGrid) -> figure:
    """The figure with its axes; its image, marks and colours are filled by the script."""
    rows, columns = len(grid.layers), len(grid.first)
    drawn = plain_figure(
        height=int(np.clip(_ROW_HEIGHT * rows + 90, _LEAST_HEIGHT, _MOST_HEIGHT)),
        x_label="step",
        y_label="layer, input at the bottom",
    )
    drawn.name = "map"
    drawn.x_range = Range1d(start=0, end=columns, bounds=(0, columns), min_interval=min(4, columns), name="map-columns")
    drawn.y_range = Range1d(start=0, end=rows, bounds=(0, rows), min_interval=min(4, rows), name="map-rows")
    drawn.grid.visible = False
    _fill(drawn, rows, columns)
    _name_axes(drawn, grid)
    mapper = LinearColorMapper(palette=Viridis256, low=0, high=1, name="map-colours")
    bar = ColorBar(
        color_mapper=mapper, width=14, background_fill_alpha=0, major_label_text_color=NEUTRAL, name="map-bar"
    )
    drawn.add_layout(bar, "right")
    for event in ("tap", "mousemove", "mouseleave"):
        drawn.js_on_event(event, CustomJS(code=f"gradscope.map.{event}(cb_obj)"))
    for axis in (drawn.x_range, drawn.y_range):
        for end in ("start", "end"):
            axis.js_on_change(end, CustomJS(code="gradscope.map.moved()"))
    return drawn


def _fill(drawn: figure, rows: int, columns: int) -> None:
    """What the script fills: the image, marks of what is broken and of findings, the frame of the chosen layer."""
    drawn.image_rgba(
        image="image",
        x="x",
        y="y",
        dw="dw",
        dh="dh",
        source=ColumnDataSource(
            {"image": [np.zeros(RASTER, np.uint32)], "x": [0], "y": [0], "dw": [columns], "dh": [rows]},
            name="map-image",
        ),
    )
    broken = ColumnDataSource({"x": [], "y": []}, name="map-broken")
    drawn.scatter("x", "y", source=broken, marker="square", size=5, color=NONFINITE_COLOUR, line_color=None)
    for severity, marker in _MARKS.items():
        marks = ColumnDataSource({"x": [], "y": []}, name=f"map-{severity}")
        for width, colour in ((5, "#ffffff"), (2, "#000000")):  # reads on every colour of the map
            drawn.scatter(
                "x", "y", source=marks, marker=marker, size=12, fill_alpha=0, line_color=colour, line_width=width
            )
    chosen = ColumnDataSource({"y": [], "height": []}, name="map-chosen")
    drawn.hbar(
        y="y", height="height", left=0, right=columns, source=chosen, fill_alpha=0, line_color="#ff9d00", line_width=2
    )


def _name_axes(drawn: figure, grid: LayerGrid) -> None:
    """Steps and modules instead of the numbers of columns and rows."""
    drawn.xaxis.ticker = BasicTicker(min_interval=1)  # a column has no quarters: its step would stand there four times
    drawn.xaxis.formatter = CustomJSTickFormatter(code="return gradscope.map.step(tick)")
    drawn.yaxis.formatter = CustomJSTickFormatter(code="return gradscope.map.name(tick)")
    drawn.yaxis.ticker = FixedTicker(ticks=[row + 0.5 for row in range(len(grid.layers))], name="map-ticks")


def _story(plane: Plane, first: int, last: int) -> figure:
    """One quantity of one layer over the steps; the script fills it when a layer is chosen."""
    drawn = plain_figure(
        height=180, x_label="step", y_label="", y_type="log" if plane.scale == "log" else "linear", title=plane.label
    )

    def source(part: str, *columns: str) -> ColumnDataSource:
        return ColumnDataSource({column: [] for column in columns}, name=f"story-{plane.key}-{part}")

    drawn.xaxis.ticker = BasicTicker(min_interval=1)
    drawn.min_border_left = 64  # the axes of all stories stand under each other
    if plane.scale == "log":
        drawn.yaxis.ticker = LogTicker(desired_num_ticks=3, mantissas=[1, 2, 5])
    room = max(1.0, 0.02 * (last - first))
    drawn.x_range = Range1d(start=first - room, end=last + room)
    drawn.y_range = Range1d(start=0.1, end=10, name=f"story-{plane.key}-values")
    drawn.vspan(x="x", source=source("broken", "x"), line_color=NONFINITE_COLOUR, line_alpha=0.6)
    drawn.vspan(x="x", source=source("onsets", "x"), line_color="#d55e00", line_dash="dashed", line_width=2)
    line = source("line", "x", "y")
    drawn.line("x", "y", source=line, line_width=2, color=COLOURS[0])
    drawn.scatter("x", "y", source=line, size=3, color=COLOURS[0])
    zeros = source("zeros", "x", "y")
    drawn.scatter("x", "y", source=zeros, marker="inverted_triangle", size=7, color=ZERO_COLOUR, line_color=NEUTRAL)
    return drawn

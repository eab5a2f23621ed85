"""Both gradients along the depth in one figure: two lines over one row of layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, PlainText, Range1d
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure

from gradscope.difference import Difference
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.page_figure import COLOURS, DASHES, NEUTRAL, plain_figure
from gradscope.reports.profile import without_shared_prefix
from gradscope.slopes import Level

_MOST_TICKS = 24
_LONGEST = 18  # characters of a layer's name under its tick
_MARKERS = ("circle", "square")
_ROOM = 0.3  # decades between the lowest or highest value and what has no place on the axis
_LEAST_DECADES = 4.0  # that the axis spans, so that a healthy profile looks flat


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A figure.

    Attributes:
        marks: What the marks at its edges mean; "" where there are none.
    """

    figure: figure
    marks: str


def both_gradients(difference: Difference) -> Drawn | None:
    """The figure; None where neither run has recorded the gradient of two layers."""
    places = difference.places
    known = [level.rms for place in places for level in (place.a, place.b) if level is not None and level.rms > 0]
    if len(places) < 2 or not known:
        return None
    made = plain_figure(height=420, x_label="layer, from the input to the loss", y_label="rms of ∂L/∂y", y_type="log")
    low, high = math.log10(min(known)), math.log10(max(known))
    missing = max(_LEAST_DECADES - (high - low), 0.0) / 2
    bottom, top = 10 ** (low - missing - _ROOM), 10 ** (high + missing + _ROOM)
    made.y_range = Range1d(start=bottom / 1.5, end=top * 1.5)
    changed = {change.layer for change in difference.changes}
    rings = [place.a is not None and place.b is not None and place.a.module in changed for place in places]
    marks: set[str] = set()
    for index, (letter, levels) in enumerate((("A", [p.a for p in places]), ("B", [p.b for p in places]))):
        marks |= _line(made, index, letter, levels, rings, bottom, top)
    _name_layers(made, [place.name for place in places])
    _legend_above(made)
    return Drawn(made, " ".join(sorted(marks)))


def _line(
    made: figure,
    index: int,
    letter: str,
    levels: Sequence[Level | None],
    rings: Sequence[bool],
    bottom: float,
    top: float,
) -> set[str]:
    """Draws one run; returns what must be said of marks at the edges."""
    colour, marker = COLOURS[index], _MARKERS[index]
    seen = [(x, level) for x, level in enumerate(levels) if level is not None]
    sized = [(x, level) for x, level in seen if level.rms > 0]
    source = _source(sized, [level.rms for _, level in sized])
    made.line("x", "y", source=source, color=colour, line_width=2, line_dash=DASHES[index], legend_label=letter)
    dots = made.scatter("x", "y", source=source, color=colour, marker=marker, size=7, legend_label=letter)
    ringed = [(x, level) for x, level in sized if rings[x]]
    made.scatter(
        "x", "y", source=_source(ringed, [level.rms for _, level in ringed]),
        marker="circle", size=15, fill_alpha=0, line_color=colour, line_width=1.5,
    )  # fmt: skip
    hovered: list[DataRenderer] = [dots]
    said: set[str] = set()
    zero = [(x, level) for x, level in seen if level.rms == 0]
    broken = [(x, level) for x, level in seen if level.nonfinite]
    for places, height, shape, meaning in (
        (zero, bottom, "inverted_triangle", "A triangle at the bottom is a gradient of exactly zero."),
        (broken, top, "x", "A cross at the top is NaN or Inf."),
    ):
        if places:
            at_edge = _source(places, [height] * len(places))
            hovered.append(made.scatter("x", "y", source=at_edge, color=colour, marker=shape, size=11, line_width=3))
            said.add(meaning)
    tips = [("layer", f"@name ({letter})"), ("rms of ∂L/∂y", "@rms")]
    made.add_tools(HoverTool(renderers=hovered, tooltips=tips, visible=False))
    return said


def _source(places: Sequence[tuple[int, Level]], heights: Sequence[float]) -> ColumnDataSource:
    return ColumnDataSource(
        {
            "x": [x for x, _ in places],
            "y": list(heights),
            "name": [on_one_line(level.module) or "(model)" for _, level in places],
            "rms": [f"{level.rms:.3g}" + (", NaN or Inf in a step" if level.nonfinite else "") for _, level in places],
        }
    )


def _name_layers(made: figure, names: Sequence[str]) -> None:
    """Every n-th layer by name; the names are no formulas, whatever dollars they hold."""
    shown = range(0, len(names), math.ceil(len(names) / _MOST_TICKS))
    short = without_shared_prefix([name or "(model)" for name in names])
    made.xaxis.ticker = FixedTicker(ticks=list(shown))
    made.xaxis.major_label_overrides = {i: PlainText(text=shortened(on_one_line(short[i]), _LONGEST)) for i in shown}
    if sum(min(len(short[i]), _LONGEST) + 2 for i in shown) > 80:
        made.xaxis.major_label_orientation = 0.9
    made.x_range = Range1d(start=-0.7, end=len(names) - 0.3)


def _legend_above(made: figure) -> None:
    (legend,) = made.legend
    legend.orientation, legend.background_fill_alpha, legend.border_line_alpha = "horizontal", 0, 0
    legend.label_text_color = NEUTRAL
    made.add_layout(legend, "above")

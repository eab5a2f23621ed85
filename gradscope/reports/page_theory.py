"""Theory beside measurement, as a page shows it: χ of each layer in a figure, and the words of `theory_text`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, Range1d
from bokeh.models.annotations import Legend, Span
from bokeh.plotting import figure

from gradscope.expected import Expectation
from gradscope.findings import Diagnosis
from gradscope.reports.page import Section
from gradscope.reports.page_figure import COLOURS, NEUTRAL, plain_figure
from gradscope.reports.theory_text import HEADS, cells, theory_of
from gradscope.trace import Trace

MOST_LAYERS = 400
FEWEST_LAYERS = 3  # that are worth a figure


@dataclass(frozen=True, slots=True)
class Layer:
    """A line of the table."""

    cells: list[str]
    agrees: bool


def theory_section(trace: Trace, _: Diagnosis) -> Section:
    """The section; where there is nothing to compare it says why."""
    theory = theory_of(trace)
    layers = _comparable(theory.found)
    return Section(
        anchor="theory",
        title="Theory beside measurement",
        template="theory.html",
        context={
            "headline": theory.headline,
            "reason": theory.reason,
            "about": theory.about,
            "sums": theory.sums,
            "partings": theory.partings,
            "table_heads": HEADS,
            "layers": [Layer(cells(one), one.agrees) for one in theory.found[:MOST_LAYERS]],
            "drawn": len(layers) >= FEWEST_LAYERS,
            "more": max(len(theory.found) - MOST_LAYERS, 0),
        },
        figures={"theory": _drawn(layers)} if len(layers) >= FEWEST_LAYERS else {},
        scripts=("shows.js",),
    )


def _comparable(found: Sequence[Expectation]) -> dict[int, Expectation]:
    """Those that a logarithmic axis can show, by their number from the input on."""
    numbered = enumerate(reversed(found), start=1)
    return {at: one for at, one in numbered if 0 < one.predicted < math.inf and 0 < one.measured < math.inf}


def _drawn(layers: Mapping[int, Expectation]) -> figure:
    """χ of each layer: a ring where theory has it, a dot where it was measured."""
    source = ColumnDataSource(
        {
            "layer": list(layers),
            "name": [one.module for one in layers.values()],
            "theory": [one.predicted for one in layers.values()],
            "measured": [one.measured for one in layers.values()],
        }
    )
    drawn = plain_figure(
        height=260, x_label="layer, the first from the input is 1", y_label="χ per layer", y_type="log"
    )
    values = [value for one in layers.values() for value in (one.predicted, one.measured)]
    drawn.y_range = Range1d(start=min(values) / 2, end=max(values) * 2)
    drawn.xaxis.ticker = BasicTicker(min_interval=1)
    legend = Legend(orientation="horizontal", background_fill_alpha=0, border_line_alpha=0, label_text_color=NEUTRAL)
    drawn.add_layout(legend, "above")
    drawn.add_layout(Span(location=1, dimension="width", line_color=NEUTRAL, line_dash="dashed"))
    drawn.segment("layer", "theory", "layer", "measured", source=source, color=NEUTRAL, line_width=1)
    ring = drawn.scatter(
        "layer",
        "theory",
        source=source,
        size=12,
        fill_alpha=0,
        line_color=COLOURS[1],
        line_width=2,
        legend_label="theory",
    )
    dot = drawn.scatter("layer", "measured", source=source, size=7, color=COLOURS[0], legend_label="measured")
    drawn.add_tools(
        HoverTool(
            renderers=[dot, ring],
            tooltips=[("layer", "@name"), ("χ theory", "@theory{%.3g}"), ("χ measured", "@measured{%.3g}")],
            formatters={"@theory": "printf", "@measured": "printf"},
        )
    )
    return drawn

"""The page of a training that runs: the report's map and layer's story, the loss and the findings, as they come.

A page is made for each browser that opens it; `show` brings it up to date. The server is `live_server`.
"""

from typing import Final

import numpy as np
from bokeh.document import Document
from bokeh.events import Event, Tap
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, InlineStyleSheet, LogTicker
from bokeh.models.widgets import Div, Select
from bokeh.plotting import figure
from markupsafe import Markup

from gradscope.moment import Moment
from gradscope.reports.diagnosis_text import verdict
from gradscope.reports.layer_grid import PLANES, LayerGrid, layer_grid
from gradscope.reports.live_map import live_map
from gradscope.reports.live_text import progress, standing_words
from gradscope.reports.names import on_one_line
from gradscope.reports.page import environment, style
from gradscope.reports.page_figure import COLOURS, plain_figure
from gradscope.reports.page_map import NONFINITE_COLOUR, ZERO_COLOUR
from gradscope.reports.terminal import series_over_steps
from gradscope.reports.verdict_words import counted, place
from gradscope.trace import Doubles, Ints

_MOST_CELLS: Final = 200_000
_MOST_POINTS: Final = 512  # of a line
_NORMS: Final = "gradient norm"


class LivePage:
    """What one browser sees.

    Args:
        document: Of Bokeh, empty.
    """

    def __init__(self, document: Document) -> None:
        self._shown: object = None
        self._grid: LayerGrid | None = None
        self._moment: Moment | None = None
        self._names: list[str] = []
        self._status = Div(text="", sizing_mode="stretch_width")
        self._findings = Div(text="", sizing_mode="stretch_width")
        self._plane = _select("Quantity")
        self._layer = _select("Layer")
        self._legend = Div(
            text=environment().get_template("live_legend.html").render(nonfinite=NONFINITE_COLOUR, zero=ZERO_COLOUR),
            sizing_mode="stretch_width",
        )
        self._map = live_map()
        self._lines = {name: ColumnDataSource({"x": [], "y": []}) for name in ("loss", _NORMS)}
        self._stories = {plane: ColumnDataSource({"x": [], "y": []}) for plane in PLANES}
        self._line_figures = {name: _line(source, name, log=name != "loss") for name, source in self._lines.items()}
        self._story_figures = {
            plane: _line(source, plane.label, log=plane.scale == "log") for plane, source in self._stories.items()
        }
        self._plane.on_change("value", self._chosen)
        self._layer.on_change("value", self._chosen)
        self._map.drawn.on_event(Tap, self._tapped)
        stories = row(list(self._story_figures.values()), sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
        document.title = "gradscope live"
        document.template = environment().get_template("live.html")
        document.template_variables["style"] = Markup(style())
        document.add_root(
            column(
                self._status,
                row(list(self._line_figures.values()), sizing_mode="stretch_width", styles={"flex-wrap": "wrap"}),
                row(self._plane, self._layer),
                self._legend,
                self._map.drawn,
                stories,
                self._findings,
                sizing_mode="stretch_width",
            )
        )

    def show(self, moment: Moment) -> None:
        """Brings it up to date, where something has changed."""
        words = standing_words(moment).plain
        shown = (moment.run, moment.recorded, moment.judged, words)
        if shown == self._shown:
            return
        self._status.text = _status(moment, words)
        before, self._shown = self._moment, shown
        self._moment = moment
        if before is not None and (before.run, before.recorded, before.judged) == shown[:3]:
            return
        self._findings.text = _findings(moment)
        for name, source in self._lines.items():
            series = dict(series_over_steps(moment.trace)).get(name)
            source.data = _points(moment.trace.steps, series)
            self._line_figures[name].visible = _can_be_drawn(series, log=name != "loss")
        self._grid = layer_grid(moment.trace, most_cells=_MOST_CELLS)
        if self._grid is not None:
            _choices(self._plane, [plane.label for plane in self._grid.planes])
            self._names = [on_one_line(layer.module or "(model)") for layer in self._grid.layers]
            _choices(self._layer, self._names)
        self._draw()

    def _chosen(self, attr: str, old: object, new: object) -> None:
        self._draw()

    def _tapped(self, event: Event) -> None:
        if (
            self._grid is not None
            and isinstance(event, Tap)
            and event.y is not None
            and 0 <= event.y < len(self._grid.layers)
        ):
            self._layer.value = self._names[int(event.y)]

    def _draw(self) -> None:
        grid, moment = self._grid, self._moment
        if grid is None or moment is None:
            return
        plane = next((p for p in grid.planes if p.label == self._plane.value), None)
        chosen = self._names.index(self._layer.value) if self._layer.value in self._names else 0
        if plane is not None:
            self._map.show(grid, plane, moment.diagnosis, chosen)
        for story, source in self._stories.items():
            cells = grid.planes.get(story)
            values = None if cells is None else np.where(cells.nonfinite, np.nan, cells.values)[chosen]
            source.data = _points(grid.first, values)
            self._story_figures[story].visible = _can_be_drawn(values, log=story.scale == "log")


def _select(title: str) -> Select:
    """Bokeh's own is white, whatever the ground."""
    style = ".bk-input { background-color: var(--raised); color: var(--ink); border-color: var(--line); }"
    return Select(title=title, options=[], width=320, stylesheets=[InlineStyleSheet(css=style)])


def _choices(select: Select, options: list[str]) -> None:
    """Keeps what was chosen, where it is still there."""
    if select.options != options:
        select.update(options=options)
    if select.value not in options:
        select.value = options[0] if options else ""


def _line(source: ColumnDataSource, title: str, *, log: bool) -> figure:
    drawn = plain_figure(height=180, x_label="step", y_label="", y_type="log" if log else "linear", title=title)
    drawn.visible = False  # until there is something to draw: an empty axis has no range
    drawn.line("x", "y", source=source, line_width=2, color=COLOURS[0])
    drawn.scatter("x", "y", source=source, size=3, color=COLOURS[0])
    drawn.min_border_left = 64
    drawn.styles = {"flex": "1 1 300px", "min-width": "300px"}
    if log:
        drawn.yaxis.ticker = LogTicker(desired_num_ticks=3, mantissas=[1, 2, 5])
    return drawn


def _can_be_drawn(values: Doubles | None, *, log: bool) -> bool:
    return values is not None and bool((np.isfinite(values) & ((values > 0) | (not log))).any())


def _points(steps: Ints, values: Doubles | None) -> dict[str, Doubles]:
    """At most so many of them; gaps stay gaps."""
    if values is None:
        return {"x": np.zeros(0), "y": np.zeros(0)}
    every = max(1, -(-len(steps) // _MOST_POINTS))
    return {"x": np.asarray(steps[::every], np.float64), "y": np.asarray(values[::every], np.float64)}


def _status(moment: Moment, words: str) -> str:
    context = {
        "model": on_one_line(str(moment.trace.meta.get("model") or moment.path)),
        "standing": words,
        "kind": moment.standing.value,
        "progress": progress(moment) if moment.recorded else "",
        "recorded": counted(moment.recorded, "step"),
        "verdict": verdict(moment.diagnosis).plain if moment.diagnosis is not None else "not judged yet",
        "worst": moment.diagnosis.worst if moment.diagnosis is not None else None,
        "judged": moment.diagnosis is not None,
    }
    return environment().get_template("live_status.html").render(context)


def _findings(moment: Moment) -> str:
    diagnosis = moment.diagnosis
    roots = diagnosis.roots if diagnosis is not None else ()
    shown = [
        (finding, place(finding.module), len(diagnosis.symptoms_of(finding)) if diagnosis is not None else 0)
        for finding in roots
    ]
    return environment().get_template("live_findings.html").render(findings=shown)

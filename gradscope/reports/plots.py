"""`trace.plot`: the figures of a trace one by one, on axes of one's own or on new ones.

    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    trace.plot.depth(ax=left)
    trace.plot.map(quantity="output", stat="dead_fraction", ax=right)

On given axes sizes of text and lines are the caller's; new ones are made by pyplot, so that a notebook shows them, and
look as those of `gradscope report --format png`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gradscope.errors import TraceError, nearest
from gradscope.records import Quantity, Statistic
from gradscope.reports.budget_figure import MOST_BARS, bars_that_fit, draw_budget, heading, height_of, known_budget
from gradscope.reports.canvas import SIZE, STYLE, legend_beside, legend_within, verbatim
from gradscope.reports.figures import draw_by_depth
from gradscope.reports.heatmaps import by_depth, draw_map
from gradscope.reports.passage import passages
from gradscope.reports.profile import FEWEST_TIMES, SYMBOL, depth_profile, time_profile
from gradscope.reports.time_figures import draw_by_time
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class Plots:
    """What can be drawn of a trace. Each method returns the axes that it has drawn on, `ax` where that is given.

    `quantity` and `stat` are what `trace.by_depth` takes; `module` is a name, or names by wildcard: `encoder.*`.
    """

    trace: Trace

    def depth(
        self,
        *,
        quantity: Quantity | str = Quantity.OUTPUT_GRAD,
        stat: Statistic | str = Statistic.RMS,
        module: str | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """The median of the recorded steps against the layers; a cross at the top where a step had NaN or Inf.

        Raises:
            TraceError: The trace has nothing of the kind.
        """
        what, stat = self._known(quantity, stat, module)
        profile = depth_profile([self.trace], what, stat, module=module)
        if profile is None:
            raise self._nothing(what, stat, module)
        with self._axes(ax, f"{SYMBOL[what]} by depth") as axes:
            draw_by_depth(axes, {self._model: profile}, stat)
            _explain(axes, beside=ax is None)
        return axes

    def time(self, *, module: str | None = None, ax: Axes | None = None) -> Axes:
        """The rms of the gradient that arrives at each position of a sequence: a line for each recurrent layer.

        Raises:
            TraceError: The trace has no sequence that is long enough, or none of that module.
        """
        layers = {p.recurrence.module for p in passages(self.trace) if p.times >= FEWEST_TIMES}
        if module is not None and module not in layers:
            raise TraceError(f"`plot.time(module={module!r})` names no recurrent layer{nearest(module, layers)}")
        if not layers and time_profile([self.trace]) is None:
            raise TraceError(
                f"no gradient in the trace has {FEWEST_TIMES} or more positions in a sequence; `plot.depth()` draws"
                " the layers."
            )
        with self._axes(ax, "gradient by time") as axes:
            explained = draw_by_time(axes, {self._model: [self.trace]}, module=module)
            _explain(axes, explained, beside=ax is None)
        return axes

    def map(
        self,
        *,
        quantity: Quantity | str = Quantity.OUTPUT_GRAD,
        stat: Statistic | str = Statistic.RMS,
        module: str | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Layers × steps as colours; grey was never observed, red holds NaN or Inf, white is exactly zero.

        Raises:
            TraceError: The trace has nothing of the kind.
        """
        what, stat = self._known(quantity, stat, module)
        grid = by_depth(self.trace, what, stat, module=module)
        if not grid.places:
            raise self._nothing(what, stat, module)
        with self._axes(ax, f"{SYMBOL[what]} by depth and step") as axes:
            patches = draw_map(axes, grid, SYMBOL[what])
            _explain_below(axes, patches, given=ax is not None)
        return axes

    def budget(self, *, ax: Axes | None = None) -> Axes:
        """A bar for each module: the decades that the gradient gains or loses in it, from the loss back.

        Raises:
            TraceError: The trace has no budget; the message says why.
        """
        budget = known_budget(self.trace)
        with self._axes(ax, heading(budget), height=height_of(budget)) as axes:
            patches = draw_budget(axes, self.trace, MOST_BARS if ax is None else bars_that_fit(ax))
            if len(patches) > 1:
                _explain_below(axes, patches, given=ax is not None)
        return axes

    @property
    def _model(self) -> str:
        return str(self.trace.meta.get("model") or "model")

    @contextmanager
    def _axes(self, given: Axes | None, what: str, height: float = SIZE[1]) -> Iterator[Axes]:
        """New ones in the style of all figures; given ones keep their own, and have no title but the caller's."""
        if given is not None:
            yield given
            return
        import matplotlib.pyplot as plt  # here only: it chooses a backend

        with rc_context(STYLE):  # type: ignore[arg-type]  # as in `canvas`
            figure = plt.figure(figsize=(SIZE[0], height), layout="constrained")
            axes = figure.add_subplot()
            axes.tick_params(labelsize=rcParams["font.size"])  # ticks are also made later, when it is shown
            axes.set_title(verbatim(f"{self._model}: {what}"))
            yield axes

    def _known(self, quantity: Quantity | str, stat: Statistic | str, module: str | None) -> tuple[Quantity, Statistic]:
        """Both as what they name.

        Raises:
            TraceError: There is no such quantity or statistic, or no module of that name.
        """
        sites, _ = self.trace.by_depth(quantity, stat)
        what = Quantity(quantity)
        if module is not None and sites and depth_profile([self.trace], what, Statistic(stat), module=module) is None:
            known = {site.module for site in sites}
            raise TraceError(f"`module={module!r}` names nothing with {what.value}{nearest(module, known)}")
        return what, Statistic(stat)

    def _nothing(self, quantity: Quantity, stat: Statistic, module: str | None) -> TraceError:
        held = sorted({site.quantity.value for site in self.trace.sites})
        return TraceError(
            f"the trace holds no {stat.value} of {quantity.value}; it holds {', '.join(held) or 'nothing'}."
        )


def _explain(axes: Axes, explained: Sequence[Line2D] = (), *, beside: bool) -> None:
    """The legend: of axes that are somebody's, within them."""
    if beside:
        legend_beside(axes, explained)
    else:
        legend_within(axes, explained)


def _explain_below(axes: Axes, patches: Sequence[Patch], *, given: bool) -> None:
    """What colours mean: below the figure, on given axes above them, as below may be others."""
    if not patches:
        return
    if given:
        size = "x-small"
        axes.legend(handles=patches, ncols=4, frameon=False, fontsize=size, loc="lower left", bbox_to_anchor=(0, 1))
    else:
        axes.figure.legend(handles=patches, loc="outside lower center", ncols=4)

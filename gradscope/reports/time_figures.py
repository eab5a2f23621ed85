"""Lines along a sequence: how much of the gradient arrives at each position, how far it reaches, whence it comes."""

from textwrap import fill

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradscope.reports.canvas import (
    COLOURS,
    Traces,
    legend_beside,
    log_axis,
    look_of,
    mark_nonfinite,
    panel_figure,
    styled,
    titled_figure,
    verbatim,
    wrapped,
)
from gradscope.reports.decades import drawable
from gradscope.reports.passage import PARTS, Part, Passage, column_medians, joined_symbols, memory_words, passages
from gradscope.reports.profile import FEWEST_TIMES, Profile, passage_profile, positions, time_profile
from gradscope.trace import Doubles, Ints, Trace

FEWEST_STEPS_FOR_TENTHS = 5
CHANGED_DECADES = 1.0  # a profile whose shape changed by more during the run is drawn as it was at first and at last
MOST_POSITIONS = 0.5
EARLY_STYLE = (0, (1.0, 1.2))
EARLY_LABEL = "dotted: first tenth\nof the steps; solid:\nthe last tenth"
CUT_LABEL = "cut: no gradient\ngoes further back"
MEMORY_LABEL = "1/1000 is left of the\ngradient at the end"
SOURCES = {
    "arriving": {"label": "what arrives", "color": "#b8b8b8", "linewidth": 7.0},
    "carried": {"label": "carried along the sequence", "color": COLOURS[1]},
    "local": {"label": "from the loss or the layer above", "color": COLOURS[0], "linestyle": (0, (4, 1.5))},
}


@styled
def gradient_by_time(traces: Traces, title: str = "") -> Figure:
    """The rms of the arriving gradient against the position, a line for each name, or for each layer of a single trace.

    The median over the recorded steps; where training changed the shape, the first tenth dotted and the last drawn. A
    ring marks the memory, a bar where truncated BPTT cuts. Sequences of different lengths are aligned at their ends.
    """
    figure, axes = titled_figure(title, "gradient by time")
    legend_beside(axes, draw_by_time(axes, traces))
    return figure


def draw_by_time(axes: Axes, traces: Traces, *, module: str | None = None) -> list[Line2D]:
    """The same on given axes and without a legend, of one recurrent module where `module` names it.

    Returns:
        What a legend says of the marks.
    """
    parts = {part: _profiles(traces, part, module) for part in PARTS}
    enough = min(len(run.steps) for runs in traces.values() for run in runs) >= FEWEST_STEPS_FOR_TENTHS
    changed = enough and any(_changed(parts["first"][name], parts["last"][name]) for name in parts["all"])
    shown = parts["last" if changed else "all"]
    aligned = len({len(profile) for profile in shown.values()}) > 1
    for index, (name, profile) in enumerate(shown.items()):
        where = positions(profile, aligned)
        axes.plot(*profile.line(where), label=_label(name, profile), **look_of(index, len(profile)))
        if changed:
            early = parts["first"][name]
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(*early.line(where), color=colour, linestyle=EARLY_STYLE, linewidth=1.8, label="_")
        mark_nonfinite(axes, where, profile.nonfinite, index)
        _mark_cuts(axes, profile, where, index)
        _mark_memory(axes, profile, where, index)
    drawn = [*shown.values(), *(parts["first"].values() if changed else ())]
    log_axis(axes, [p.rms for p in drawn], [p.positive[:1] if p.reverse else p.positive[-1:] for p in drawn])
    if changed:
        axes.plot([], [], color="#555555", linestyle=EARLY_STYLE, label=EARLY_LABEL)
    axes.set_xlabel("position, counted from the end of the sequence" if aligned else "position in the sequence")
    axes.set_ylabel(f"rms of {joined_symbols(p.symbol for p in shown.values())}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _explain_marks(axes)


@styled
def gradient_split(trace: Trace, title: str = "") -> Figure:
    """Where the arriving gradient comes from: the loss or the layer above, or the next time. A panel for each layer."""
    shown = with_two_sources(trace)
    figure, rows, columns = panel_figure(
        len(shown), f"{title}: where the gradient comes from" if title else "Where the gradient comes from"
    )
    drawn: list[Axes] = []
    sizes: list[Doubles] = []
    for index, passage in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn.append(axes)
        where = np.arange(passage.times)
        for key, values in (("arriving", passage.rms), ("carried", passage.carried), ("local", passage.local)):
            if values is not None:
                sizes.append(column_medians(values))
                axes.plot(where, drawable(sizes[-1]), **SOURCES[key])  # type: ignore[arg-type]
        axes.set_title(verbatim(fill(passage.name, 24)), fontsize=14, pad=6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        if index + columns >= len(shown):
            axes.set_xlabel("position in the sequence")
        if index % columns:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel(f"rms of {joined_symbols(p.symbol for p in shown)}" if rows == 1 else "rms")
    for axes in drawn:
        log_axis(axes, sizes, [np.fmax(size[:1], size[-1:]) for size in sizes])  # the end that the loss reaches first
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def with_two_sources(trace: Trace) -> list[Passage]:
    """The layers whose gradient comes from outside at most of their positions, and is carried between them."""
    found = []
    for passage in passages(trace):
        if passage.local is not None and passage.times >= FEWEST_TIMES:
            arrives = column_medians(passage.rms) > 0
            if (column_medians(passage.local)[arrives] > 0).mean() > MOST_POSITIONS:
                found.append(passage)
    return found


def _profiles(traces: Traces, part: Part, module: str | None) -> dict[str, Profile]:
    """By the names of `traces`; of a single trace by its layers and directions, where it has them."""
    if len(traces) == 1 and all(len(runs) == 1 for runs in traces.values()):
        ((trace,),) = traces.values()
        long = (p for p in passages(trace) if p.times >= FEWEST_TIMES)
        layers = [p for p in long if module in (None, p.recurrence.module)]
        if layers:
            return {p.name: passage_profile([p], part) for p in layers}
    found = {name: time_profile(runs, part) for name, runs in traces.items()}
    return {name: profile for name, profile in found.items() if profile}


def _changed(first: Profile, last: Profile) -> bool:
    """Whether the shape did: that the whole gradient shrinks with the loss is no news about time."""
    if not len(first.positive) or not len(last.positive):
        return False
    shapes = [np.log10(drawable(profile.rms) / profile.positive.max()) for profile in (first, last)]
    away = np.abs(shapes[0] - shapes[1])
    return bool((away[~np.isnan(away)] > CHANGED_DECADES).any())


def _mark_cuts(axes: Axes, profile: Profile, where: Ints, index: int) -> None:
    """A bar on the line at each first position after a cut."""
    cuts = [cut for cut in profile.cuts if cut < len(profile) and drawable(profile.rms)[cut] > 0]
    if cuts:
        colour = COLOURS[index % len(COLOURS)]
        look = {"linestyle": "", "marker": "|", "markersize": 2.5 * rcParams["lines.markersize"], "zorder": 4}
        look["markeredgewidth"] = 1.25 * rcParams["lines.linewidth"]
        axes.plot(where[cuts], profile.rms[cuts], color=colour, markeredgecolor=colour, label="_cut", **look)


def _mark_memory(axes: Axes, profile: Profile, where: Ints, index: int) -> None:
    """A ring on the line where of a gradient from the end of the sequence a thousandth is left."""
    at, height = profile.memory_mark
    if np.isnan(at):
        return
    axes.plot(
        [where[0] + at],
        [height],
        linestyle="",
        marker="o",
        markersize=1.9 * rcParams["lines.markersize"],
        markerfacecolor="white",
        markeredgecolor=COLOURS[index % len(COLOURS)],
        markeredgewidth=1.3 * rcParams["lines.linewidth"],
        label="_memory",
        zorder=6,
    )


def _label(name: str, profile: Profile) -> str:
    reverse = ["its end is position 0"] if profile.reverse else []
    memory = [f"memory {memory_words(profile.memory, profile.lag)}"] if not np.isnan(profile.memory) else []
    return "\n".join([wrapped(name), *memory, *reverse])


def _explain_marks(axes: Axes) -> list[Line2D]:
    """What a ring and a bar mean, where there are any."""
    drawn = {line.get_label() for line in axes.lines}
    ring = {"marker": "o", "markersize": 12, "markerfacecolor": "white", "markeredgecolor": "#333333"}
    bar = {"marker": "|", "markersize": 16, "markeredgecolor": "#333333"}
    explained = [("_memory", ring, MEMORY_LABEL), ("_cut", bar, CUT_LABEL)]
    return [
        Line2D([], [], linestyle="", markeredgewidth=2.6, label=label, **look)  # type: ignore[arg-type]
        for mark, look, label in explained
        if mark in drawn
    ]

"""Figures for a slide or a paper, as files: by depth, by time, over the steps.

Here those over the steps and by depth are drawn; `time_figures` and `heatmaps` draw the others, `canvas` has the style.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradscope.budget import budget_of
from gradscope.records import Quantity, Statistic
from gradscope.reports.budget_figure import budget_bars
from gradscope.reports.canvas import (
    COLOURS,
    DPI,
    PALE,
    Look,
    Traces,
    is_size,
    legend_beside,
    limits,
    log_axis,
    look_of,
    mark_nonfinite,
    name_ticks,
    stat_of,
    styled,
    titled_figure,
    wrapped,
)
from gradscope.reports.comparison import Comparison
from gradscope.reports.decades import drawable
from gradscope.reports.heatmaps import heatmaps, heatmaps_through_time
from gradscope.reports.passage import passages
from gradscope.reports.profile import FEWEST_TIMES, Profile, depth_profile, depth_story, time_profile
from gradscope.reports.step_curves import broken_steps, losses_of, norms_of, running_median, spreads_out
from gradscope.reports.time_figures import gradient_by_time, gradient_split, with_two_sources
from gradscope.trace import Doubles, Ints, Trace


def save_figures(source: Comparison | Trace, directory: Path, suffix: str = ".png") -> list[Path]:
    """Every figure that `source` has the data for, as files in `directory`, which is made if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures_of(source):
        paths.append(directory / f"{name}{suffix}")
        save(figure, paths[-1])
    return paths


@styled
def save(figure: Figure, path: Path) -> None:
    """Writes one figure, in the format that the file's suffix names."""
    figure.savefig(path, dpi=DPI, metadata={"Date": None} if path.suffix == ".svg" else None)


def figures_of(source: Comparison | Trace) -> Iterator[tuple[str, Figure]]:
    """(file name without suffix, figure), one after the other."""
    if isinstance(source, Trace):
        title = ""
        traces: Traces = {str(source.meta.get("model") or "model"): [source]}
    else:
        title = source.name
        traces = {v.name: [run.trace for run in v.runs] for v in source.variants}
    deep = {name: runs for name, runs in traces.items() if depth_story(runs)}
    if deep:
        yield "gradient-by-depth", gradient_by_depth(deep, title)
    if any(time_profile(runs) for runs in traces.values()):
        yield "gradient-by-time", gradient_by_time(traces, title)
    if any(norms_of(run)[0] is not None for runs in traces.values() for run in runs):
        yield "gradient-norm", gradient_norm(traces, title)
    if any(np.isfinite(run.per_step["loss"]).any() for runs in traces.values() for run in runs):
        yield "loss", loss_curves(traces, title)
    if deep:
        yield "heatmap", heatmaps({name: runs[0] for name, runs in deep.items()}, Quantity.OUTPUT_GRAD, title)
    long = {name: runs[0] for name, runs in traces.items() if any(p.times >= FEWEST_TIMES for p in passages(runs[0]))}
    if long:
        yield "heatmap-through-time", heatmaps_through_time(long, title)
    if isinstance(source, Trace) and with_two_sources(source):
        yield "gradient-sources", gradient_split(source, title)
    if isinstance(source, Trace) and budget_of(source) is not None:
        yield "budget", budget_bars(source, title)


@styled
def gradient_by_depth(traces: Traces, title: str = "") -> Figure:
    """The rms of ∂L/∂y against depth, one line for each name, the median over steps and runs."""
    figure, axes = titled_figure(title, "gradient by depth")
    draw_by_depth(axes, {name: depth_profile(runs, Quantity.OUTPUT_GRAD) for name, runs in traces.items()})
    legend_beside(axes)
    return figure


def draw_by_depth(axes: Axes, profiles: Mapping[str, Profile | None], stat: Statistic = Statistic.RMS) -> None:
    """A line for each name, on given axes and without a legend; `stat` is what the profiles are of."""
    known = {index: profile for index, profile in enumerate(profiles.values()) if profile}
    for index, profile in known.items():
        where = np.arange(len(profile))
        shown = drawable(profile.rms) if is_size(stat) else profile.rms
        axes.plot(where, shown, label=wrapped(list(profiles)[index]), **look_of(index, len(profile)))
        mark_nonfinite(axes, where, profile.nonfinite, index)
    longest = max(known.values(), key=len)
    if is_size(stat):
        log_axis(axes, [p.rms for p in known.values()])
    else:
        low, high = limits(stat, np.concatenate([p.rms for p in known.values()]))
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    same = all(p.places == longest.places for p in known.values())
    name_ticks(axes, longest.places if same else [str(i + 1) for i in range(len(longest))])
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel(stat_of(stat, longest.symbol))


@styled
def gradient_norm(traces: Traces, title: str = "") -> Figure:
    """The norm of all gradients at each step: as backward left it; dashed, as the optimizer read it."""
    figure, axes = titled_figure(title, "gradient norm by step")
    seen, clipped = [], False
    for index, (name, runs) in enumerate(traces.items()):
        raw, applied = norms_of(runs[0])
        if raw is None:
            continue
        seen.append(raw)
        look = look_of(index, len(raw))
        _step_line(axes, runs[0].steps, drawable(raw), name, look)
        if applied is not None:
            seen.append(applied)
            look["linestyle"], look["marker"] = (0, (2, 1.5)), ""
            _step_line(axes, runs[0].steps, drawable(applied), "_", look)
            clipped = True
        mark_nonfinite(axes, runs[0].steps, broken_steps(runs[0], Quantity.TOTAL_NORM), index)
    if clipped:
        axes.plot([], [], color="#555555", linestyle=(0, (2, 1.5)), label="as the optimizer\nread it")
    log_axis(axes, seen)
    _step_axis(axes)
    axes.set_ylabel("‖∂L/∂w‖ of all parameters")
    legend_beside(axes)
    return figure


@styled
def loss_curves(traces: Traces, title: str = "") -> Figure:
    """Loss against step, one line for each name; with several runs the median and, shaded, the range."""
    figure, axes = titled_figure(title, "loss")
    everything = []
    for index, (name, runs) in enumerate(traces.items()):
        found = losses_of(runs)
        mark_nonfinite(axes, found.steps, found.broken, index)
        if not found.known.any():
            continue
        steps = found.steps[found.known]
        middle, low, high = (of[found.known] for of in (found.middle, found.low, found.high))
        _step_line(axes, steps, middle, name, look_of(index, len(steps)))
        if len(runs) > 1:
            axes.fill_between(steps, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.15, linewidth=0)
        everything += [low, high]
    values = np.concatenate([np.zeros(0), *everything])
    if spreads_out(values):
        log_axis(axes, everything)  # one variant explodes: the others would lie on the axis
    _step_axis(axes)
    axes.set_ylabel("loss")
    legend_beside(axes)
    return figure


def _step_line(axes: Axes, steps: Ints, values: Doubles, name: str, look: Look) -> None:
    """A series over the steps; where there are many, its running median, with the series itself pale behind it."""
    if (smoothed := running_median(values)) is not None:
        axes.plot(steps, values, color=look["color"], linewidth=0.8, alpha=PALE)
        values = smoothed
    axes.plot(steps, values, label=wrapped(name), **look)


def _step_axis(axes: Axes) -> None:
    smoothed = any(line.get_alpha() == PALE for line in axes.lines)
    axes.set_xlabel("step (running median; pale, every step)" if smoothed else "step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))

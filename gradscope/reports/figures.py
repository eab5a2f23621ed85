"""Figures for a slide or a paper, as files: by depth, by time, over the steps.

Here those over the steps and by depth are drawn; `time_figures` and `heatmaps` draw the others, `canvas` has the style.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gradscope.budget import budget_of
from gradscope.records import Quantity, Statistic
from gradscope.reports.budget_figure import budget_bars
from gradscope.reports.canvas import (
    COLOURS,
    DPI,
    PALE,
    Look,
    Traces,
    drawable,
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
from gradscope.reports.heatmaps import heatmaps, heatmaps_through_time
from gradscope.reports.passage import passages
from gradscope.reports.profile import FEWEST_TIMES, Profile, depth_profile, depth_story, time_profile
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
    if any(_norm(run, "raw") is not None for runs in traces.values() for run in runs):
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
        raw, applied = _norm(runs[0], "raw"), _norm(runs[0], "applied")
        if raw is None:
            continue
        seen.append(raw)
        look = look_of(index, len(raw))
        _step_line(axes, runs[0].steps, drawable(raw), name, look)
        if applied is not None and not np.allclose(raw, applied, rtol=1e-3, equal_nan=True):
            seen.append(applied)
            look["linestyle"], look["marker"] = (0, (2, 1.5)), ""
            _step_line(axes, runs[0].steps, drawable(applied), "_", look)
            clipped = True
        mark_nonfinite(axes, runs[0].steps, _broken(runs[0], Quantity.TOTAL_NORM), index)
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
        runs = [run for run in runs if len(run.steps) == len(runs[0].steps)]
        losses = np.stack([run.per_step["loss"] for run in runs])
        finite = np.where(np.isfinite(losses), losses, np.nan)
        known = ~np.isnan(finite).all(axis=0)
        broken = np.any([_broken(run, Quantity.LOSS) for run in runs], axis=0) | np.isinf(losses).any(axis=0)
        mark_nonfinite(axes, runs[0].steps, broken, index)
        if not known.any():
            continue
        steps, finite = runs[0].steps[known], finite[:, known]
        _step_line(axes, steps, np.nanmedian(finite, axis=0), name, look_of(index, len(steps)))
        if len(runs) > 1:
            low, high = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
            axes.fill_between(steps, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.15, linewidth=0)
        everything.append(finite.ravel())
    values = np.concatenate([np.zeros(0), *everything])
    if len(values) and np.nanmin(values) > 0 and np.nanmax(values) > 100 * np.nanmedian(values):
        log_axis(axes, everything)  # one variant explodes: the others would lie on the axis
    _step_axis(axes)
    axes.set_ylabel("loss")
    legend_beside(axes)
    return figure


def _step_line(axes: Axes, steps: Ints, values: Doubles, name: str, look: Look) -> None:
    """A series over the steps; where there are many, its running median, with the series itself pale behind it."""
    window = len(steps) // 25
    if window > 1:
        axes.plot(steps, values, color=look["color"], linewidth=0.8, alpha=PALE)
        values = _running_median(values, window)
    axes.plot(steps, values, label=wrapped(name), **look)


def _running_median(values: Doubles, window: int) -> Doubles:
    """The median of the `window` steps around each step, fewer at the ends; NaN stays where it was."""
    half = window // 2
    known = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmedian(k) if np.isfinite(v) else np.nan for v, k in zip(values, known, strict=True)])


def _step_axis(axes: Axes) -> None:
    smoothed = any(line.get_alpha() == PALE for line in axes.lines)
    axes.set_xlabel("step (running median; pale, every step)" if smoothed else "step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _norm(trace: Trace, name: str) -> Doubles | None:
    if not trace.columns(Quantity.TOTAL_NORM, "", name):
        return None
    return trace.series("", Quantity.TOTAL_NORM, Statistic.L2_NORM, name=name).astype(np.float64)


def _broken(trace: Trace, quantity: Quantity) -> NDArray[np.bool_]:
    """In which steps something of `quantity` was NaN or Inf. Shape (step,)."""
    return np.asarray((trace.statistics[Statistic.NONFINITE_COUNT][:, trace.columns(quantity)] > 0).any(axis=1))

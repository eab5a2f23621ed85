"""Figures for a slide or a paper: gradient by depth, depth × step, gradient by time, norms and losses over the steps.

Matplotlib's `Figure` is used without pyplot: no global state, no window, safe in a thread. The colours are those of
Okabe and Ito (2008), which people with any colour vision tell apart; each line has its own marker beside its colour.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TypedDict

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from gradscope.records import Quantity, Statistic
from gradscope.reports.comparison import Comparison
from gradscope.reports.profile import (
    SYMBOL,
    Profile,
    depth_profile,
    depth_story,
    place,
    time_profile,
    without_shared_prefix,
)
from gradscope.trace import Doubles, Floats, Ints, Trace

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = "osD^vPX<"
DASHES = ("-", "--", ":", "-.")  # a ninth line repeats the first colour, dashed
UNSEEN_COLOUR, NONFINITE_COLOUR, ZERO_COLOUR = "#d9d9d9", "#D40000", "#ffffff"
STYLE = {
    "font.size": 15,
    "axes.titlesize": 17,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 13,
    "lines.linewidth": 2.4,
    "lines.markersize": 8,
    "lines.markeredgecolor": "white",
    "lines.markeredgewidth": 0.8,
    "svg.hashsalt": "gradscope",  # the same figure is the same file
}
_styled = rc_context(STYLE)  # type: ignore[arg-type]  # the stubs want the keys as literals
SIZE = (11.0, 6.2)  # inches, the 16:9 of a slide
DPI = 140
MOST_TICKS = 16
PALE = 0.3
MOST_MARKERS = 10
NONFINITE_LABEL = "NaN or Inf"
MOST_DECADES_ABOVE = 8.0  # of the median of everything drawn
LEAST_DECADES = 4.0  # a log axis spans at least this, so that a healthy profile looks flat

Traces = Mapping[str, Sequence[Trace]]


def save_figures(source: Comparison | Trace, directory: Path, suffix: str = ".png") -> list[Path]:
    """Every figure that `source` has the data for, as files in `directory`, which is made if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures_of(source):
        paths.append(directory / f"{name}{suffix}")
        save(figure, paths[-1])
    return paths


@_styled
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


@_styled
def gradient_by_depth(traces: Traces, title: str = "") -> Figure:
    """The rms of ∂L/∂y against depth, one line for each name, the median over steps and runs."""
    profiles = {name: depth_profile(runs, Quantity.OUTPUT_GRAD) for name, runs in traces.items()}
    figure, axes = _figure(title, "gradient by depth")
    _profile_lines(axes, profiles)
    longest = max((p for p in profiles.values() if p), key=len)
    same = all(p is None or p.places == longest.places for p in profiles.values())
    _name_ticks(axes, longest.places if same else [str(i + 1) for i in range(len(longest))])
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel("rms of ∂L/∂y")
    return figure


@_styled
def gradient_by_time(traces: Traces, title: str = "") -> Figure:
    """The rms of a gradient against the position in the sequence, one line for each name."""
    profiles = {name: time_profile(runs) for name, runs in traces.items()}
    figure, axes = _figure(title, "gradient by time")
    _profile_lines(axes, profiles)
    axes.set_xlabel("position in the sequence")
    axes.set_ylabel(f"rms of {SYMBOL[next(p.quantity for p in profiles.values() if p)]}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@_styled
def gradient_norm(traces: Traces, title: str = "") -> Figure:
    """The norm of all gradients at each step: as backward left it; dashed, as the optimizer read it."""
    figure, axes = _figure(title, "gradient norm by step")
    seen, clipped = [], False
    for index, (name, runs) in enumerate(traces.items()):
        raw, applied = _norm(runs[0], "raw"), _norm(runs[0], "applied")
        if raw is None:
            continue
        seen.append(raw)
        look = _look(index, len(raw))
        _step_line(axes, runs[0].steps, _drawable(raw), name, look)
        if applied is not None and not np.allclose(raw, applied, rtol=1e-3, equal_nan=True):
            seen.append(applied)
            look["linestyle"], look["marker"] = (0, (2, 1.5)), ""
            _step_line(axes, runs[0].steps, _drawable(applied), "_", look)
            clipped = True
        _mark_nonfinite(axes, runs[0].steps, _broken(runs[0], Quantity.TOTAL_NORM), index)
    if clipped:
        axes.plot([], [], color="#555555", linestyle=(0, (2, 1.5)), label="as the optimizer\nread it")
    _log_axis(axes, seen)
    _step_axis(axes)
    axes.set_ylabel("‖∂L/∂w‖ of all parameters")
    _legend(axes)
    return figure


@_styled
def loss_curves(traces: Traces, title: str = "") -> Figure:
    """Loss against step, one line for each name; with several runs the median and, shaded, the range."""
    figure, axes = _figure(title, "loss")
    everything = []
    for index, (name, runs) in enumerate(traces.items()):
        runs = [run for run in runs if len(run.steps) == len(runs[0].steps)]
        losses = np.stack([run.per_step["loss"] for run in runs])
        finite = np.where(np.isfinite(losses), losses, np.nan)
        known = ~np.isnan(finite).all(axis=0)
        broken = np.any([_broken(run, Quantity.LOSS) for run in runs], axis=0) | np.isinf(losses).any(axis=0)
        _mark_nonfinite(axes, runs[0].steps, broken, index)
        if not known.any():
            continue
        steps, finite = runs[0].steps[known], finite[:, known]
        _step_line(axes, steps, np.nanmedian(finite, axis=0), name, _look(index, len(steps)))
        if len(runs) > 1:
            low, high = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
            axes.fill_between(steps, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.15, linewidth=0)
        everything.append(finite.ravel())
    values = np.concatenate([np.zeros(0), *everything])
    if len(values) and np.nanmin(values) > 0 and np.nanmax(values) > 100 * np.nanmedian(values):
        _log_axis(axes, everything)  # one variant explodes: the others would lie on the axis
    _step_axis(axes)
    axes.set_ylabel("loss")
    _legend(axes)
    return figure


@_styled
def heatmaps(traces: Mapping[str, Trace], quantity: Quantity, title: str = "") -> Figure:
    """log₁₀ of the rms, depth × step, a panel for each name, all in the same colours.

    Grey was never observed, red holds NaN or Inf, white is exactly zero.
    """
    shown = {name: t for name, t in traces.items() if t.by_depth(quantity, Statistic.RMS)[0]}
    columns = next(c for c, most in ((1, 1), (2, 2), (3, 3), (2, 4), (3, 6), (4, len(shown))) if len(shown) <= most)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(SIZE[0], max(SIZE[1], 3.1 * rows)), layout="constrained")
    figure.suptitle(
        f"{title}: {SYMBOL[quantity]} by depth and step".removeprefix(": "),
        fontsize=17,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    values = np.concatenate([t.by_depth(quantity, Statistic.RMS)[1].ravel() for t in shown.values()])
    positive = values[np.isfinite(values) & (values > 0)]
    # a few cells of an explosion must not leave one colour for all others
    norm = Normalize(*_limits(np.quantile(positive, [0.002, 0.99]) if len(positive) else positive))
    patches: dict[str, Patch] = {}
    drawn: list[Axes] = []
    steps = max((trace.steps for trace in shown.values()), key=len)
    same = len({tuple(place(s) for s in t.by_depth(quantity, Statistic.RMS)[0]) for t in shown.values()}) == 1
    for index, (name, trace) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn.append(axes)
        mesh = _heatmap(axes, trace, quantity, norm, patches)
        if same or columns == 1:
            places = [place(site) for site in trace.by_depth(quantity, Statistic.RMS)[0]]
            _name_ticks(axes, places, axis="y", most=MOST_TICKS if rows == 1 and columns < 3 else 6)
        else:  # names of its own beside each panel would leave no room for the panels: layers are counted
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axes.yaxis.set_major_formatter(lambda i, _: str(int(i) + 1) if i >= 0 else "")
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4 if columns < 4 else 3))
        axes.xaxis.set_major_formatter(lambda i, _: str(steps[int(i)]) if 0 <= i < len(steps) else "")
        if len(trace.steps) < len(steps):
            axes.patch.set(facecolor="white", edgecolor="#c8c8c8", hatch="//")
            patches["no step"] = Patch(facecolor="white", edgecolor="#c8c8c8", hatch="//", label="no step")
        axes.set_title(fill(name, 24 if columns < 4 else 20), fontsize=14 if columns < 4 else 12, pad=6)
        if same and index % columns:
            axes.tick_params(labelleft=False)
        if index + columns >= len(shown):
            axes.set_xlabel("step")
        if index % columns == 0:
            axes.set_ylabel("layer, input at the bottom" if rows == 1 else "layer")
    bar = figure.colorbar(mesh, ax=drawn, pad=0.02, aspect=30, extend="both")
    bar.set_label(f"log₁₀ rms of {SYMBOL[quantity]}", fontsize=15)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if patches:
        figure.legend(handles=list(patches.values()), loc="outside lower center", ncols=4)
    return figure


def _heatmap(axes: Axes, trace: Trace, quantity: Quantity, norm: Normalize, patches: dict[str, Patch]) -> QuadMesh:
    """One panel; the special cells that it holds are added to `patches`."""
    sites, rms = trace.by_depth(quantity, Statistic.RMS)
    nonfinite, numel = (trace.by_depth(quantity, s)[1] for s in (Statistic.NONFINITE_COUNT, Statistic.NUMEL))
    axes.grid(False)
    edges = np.arange(len(trace.steps) + 1) - 0.5
    depths = np.arange(len(sites) + 1) - 0.5
    positive = np.isfinite(rms) & (rms > 0)
    logs = np.ma.masked_array(np.log10(np.where(positive, rms, 1)).astype(np.float64).T, ~positive.T)
    mesh = axes.pcolormesh(edges, depths, logs, cmap="viridis", norm=norm, rasterized=True)
    for name, cells, colour in (
        ("never observed", np.isnan(numel), UNSEEN_COLOUR),
        ("exactly zero", (rms == 0) & (nonfinite == 0), ZERO_COLOUR),
        ("NaN or Inf", nonfinite > 0, NONFINITE_COLOUR),
    ):
        if cells.any():
            layer = np.ma.masked_array(np.ones(cells.T.shape), ~cells.T)
            axes.pcolormesh(edges, depths, layer, cmap=_plain(colour), rasterized=True)
            patches.setdefault(name, Patch(facecolor=colour, edgecolor="#888888", label=name))
    return mesh


def _figure(title: str, what: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"{title}: {what}" if title else what[:1].upper() + what[1:])
    return figure, axes


def _profile_lines(axes: Axes, profiles: Mapping[str, Profile | None]) -> None:
    for index, (name, profile) in enumerate(profiles.items()):
        if profile is None:
            continue
        where = np.arange(len(profile))
        axes.plot(where, _drawable(profile.rms), label=_wrapped(name), **_look(index, len(profile)))
        _mark_nonfinite(axes, where, profile.nonfinite, index)
    _log_axis(axes, [p.rms for p in profiles.values() if p])
    _legend(axes)


class _Look(TypedDict):
    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, float]]
    markevery: tuple[int, int]


def _look(index: int, points: int) -> _Look:
    every = max(1, points // MOST_MARKERS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "markevery": (index * every // len(MARKERS) % every, every),  # staggered: lines that coincide stay apart
    }


def _drawable(values: Doubles) -> Doubles:
    """Zero, NaN and Inf become gaps in a line on a logarithmic axis."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _mark_nonfinite(axes: Axes, where: Ints, broken: NDArray[np.bool_], index: int) -> None:
    """A cross in the variant's colour at the top of the axes for every NaN or Inf, a line of them for each variant."""
    if not broken.any():
        return
    corners = np.column_stack([where[broken], np.zeros(int(broken.sum()))])
    axes.update_datalim(corners, updatey=False)  # the crosses are placed by the axes' height, which counts for no limit
    axes.autoscale_view(scaley=False)
    axes.scatter(
        where[broken],
        np.full(int(broken.sum()), 0.985 - 0.03 * len(axes.collections)),
        transform=axes.get_xaxis_transform(),
        marker="x",
        s=45,
        linewidths=2.5,
        color=COLOURS[index % len(COLOURS)],
        label=NONFINITE_LABEL,
        zorder=5,
    )


def _log_axis(axes: Axes, values: Sequence[Doubles]) -> None:
    """A logarithmic axis for `values`; what explodes leaves it at the top, so that the rest can still be told apart."""
    everything = np.concatenate([np.zeros(0), *(v.ravel() for v in values)])
    positive = everything[np.isfinite(everything) & (everything > 0)]
    low, high = _limits(positive)
    if len(positive):
        high = min(high, max(float(np.log10(np.median(positive))) + MOST_DECADES_ABOVE, low + LEAST_DECADES))
    axes.set_yscale("log")
    axes.set_ylim(10 ** (low - 0.2), 10 ** (high + 0.2))
    axes.yaxis.set_major_locator(LogLocator(numticks=9))


def _limits(positive: Doubles | Floats) -> tuple[float, float]:
    """log₁₀ of the smallest and the largest, at least `LEAST_DECADES` apart."""
    if not positive.size:
        return -LEAST_DECADES, 0.0
    low, high = float(np.log10(positive.min())), float(np.log10(positive.max()))
    missing = max(LEAST_DECADES - (high - low), 0.0)
    return low - missing / 2, high + missing / 2


def _name_ticks(axes: Axes, names: Sequence[str], axis: str = "x", most: int = MOST_TICKS) -> None:
    """Layer names without what all have in front, every n-th where there are many."""
    names = without_shared_prefix(names)
    where = np.arange(0, len(names), -(-len(names) // most))
    labels = [n if len(n) <= 20 else "…" + n[-19:] for n in (names[i] for i in where)]
    if axis == "y":
        axes.set_yticks(where, labels, fontsize=12)
    else:
        slanted = sum(map(len, labels)) > 70
        axes.set_xticks(where, labels, rotation=40 if slanted else 0, ha="right" if slanted else "center", fontsize=12)


def _step_line(axes: Axes, steps: Ints, values: Doubles, name: str, look: _Look) -> None:
    """A series over the steps; where there are many, its running median, with the series itself pale behind it."""
    window = len(steps) // 25
    if window > 1:
        axes.plot(steps, values, color=look["color"], linewidth=0.8, alpha=PALE)
        values = _running_median(values, window)
    axes.plot(steps, values, label=_wrapped(name), **look)


def _running_median(values: Doubles, window: int) -> Doubles:
    """The median of the `window` steps around each step, fewer at the ends; NaN stays where it was."""
    half = window // 2
    known = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmedian(k) if np.isfinite(v) else np.nan for v, k in zip(values, known, strict=True)])


def _wrapped(name: str) -> str:
    return fill(name, 18)


def _step_axis(axes: Axes) -> None:
    smoothed = any(line.get_alpha() == PALE for line in axes.lines)
    axes.set_xlabel("step (running median; pale, every step)" if smoothed else "step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(axes: Axes) -> None:
    """Beside the axes, in the order of the variants, NaN last and once; none where there is one line."""
    by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if by_label.pop(NONFINITE_LABEL, None):
        by_label[NONFINITE_LABEL] = Line2D([], [], color="black", marker="x", linestyle="", markeredgecolor="black")
    if len(by_label) > 1:
        size = STYLE["legend.fontsize"] if len(by_label) <= 10 else 11
        axes.legend(by_label.values(), by_label, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=size)


def _norm(trace: Trace, name: str) -> Doubles | None:
    if not trace.columns(Quantity.TOTAL_NORM, "", name):
        return None
    return trace.series("", Quantity.TOTAL_NORM, Statistic.L2_NORM, name=name).astype(np.float64)


def _broken(trace: Trace, quantity: Quantity) -> NDArray[np.bool_]:
    """In which steps something of `quantity` was NaN or Inf. Shape (step,)."""
    return np.asarray((trace.statistics[Statistic.NONFINITE_COUNT][:, trace.columns(quantity)] > 0).any(axis=1))


def _plain(colour: str) -> Colormap:
    return LinearSegmentedColormap.from_list("plain", [colour, colour])

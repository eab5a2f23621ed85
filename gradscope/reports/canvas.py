"""What all figures share: style, colours, axes, legend.

Matplotlib's `Figure` is used without pyplot: no global state, no window, safe in a thread. The colours are those of
Okabe and Ito (2008), which people with any colour vision tell apart; each line has its own marker beside its colour.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Literal, TypeAlias, TypedDict

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from gradscope.records import Statistic
from gradscope.reports.decades import ends_of_axis
from gradscope.reports.names import on_one_line
from gradscope.reports.profile import without_shared_prefix
from gradscope.trace import Doubles, Ints, Trace

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = "osD^vPX<"
DASHES = ("-", "--", ":", "-.")  # a ninth line repeats the first colour, dashed
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
styled = rc_context(STYLE)  # type: ignore[arg-type]  # the stubs want the keys as literals
SIZE = (11.0, 6.2)  # inches, the 16:9 of a slide
DPI = 140
MOST_TICKS = 16
PALE = 0.3
LETTER = 0.6  # its mean width, by the font's size
TICK_SIZE = 0.833  # "small", by the font's size
MOST_MARKERS = 10
NONFINITE_LABEL = "NaN or Inf"

SIZES = frozenset({
    Statistic.RMS, Statistic.L2_NORM, Statistic.STD, Statistic.ABS_MAX, Statistic.NUMEL, Statistic.NONFINITE_COUNT,
    Statistic.SPECTRAL_RADIUS, Statistic.SPECTRAL_NORM, Statistic.SAMPLE_SPREAD, Statistic.DIRECTION_SPREAD,
})  # fmt: skip

Traces: TypeAlias = Mapping[str, Sequence[Trace]]


def titled_figure(title: str, what: str) -> tuple[Figure, Axes]:
    """One pair of axes under "title: what"."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(verbatim(f"{title}: {what}" if title else what[:1].upper() + what[1:]))
    return figure, axes


def panel_figure(count: int, heading: str) -> tuple[Figure, int, int]:
    """An empty figure for `count` panels under one heading, and the rows and columns they stand in."""
    columns = next(c for c, most in ((1, 1), (2, 2), (3, 3), (2, 4), (3, 6), (4, count)) if count <= most)
    rows = -(-count // columns)
    figure = Figure(figsize=(SIZE[0], max(SIZE[1], 3.1 * rows)), layout="constrained")
    figure.suptitle(verbatim(heading), fontsize=17, fontweight="bold", x=0.01, ha="left")
    return figure, rows, columns


def log_axis(axes: Axes, values: Sequence[Doubles], usual: Sequence[Doubles] = ()) -> None:
    """A logarithmic axis for `values`, as far as `ends_of_axis` has it."""
    low, high = ends_of_axis(values, usual)
    axes.set_yscale("log")
    axes.set_ylim(10 ** (low - 0.2), 10 ** (high + 0.2))
    axes.yaxis.set_major_locator(LogLocator(numticks=9))


def is_size(stat: Statistic) -> bool:
    """Whether a statistic spans decades; shares lie between 0 and 1, and others may be negative."""
    return stat in SIZES


def limits(stat: Statistic, values: Doubles) -> tuple[float, float]:
    """Where an axis or colours for a statistic that is no size begin and end."""
    if stat.endswith("_fraction") or stat is Statistic.ATTENTION_ENTROPY:
        return 0.0, 1.0
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def stat_of(stat: Statistic, symbol: str) -> str:
    """``rms of ∂L/∂y``, ``dead fraction of y``."""
    return f"{stat.value.replace('_', ' ')} of {symbol}"


def name_ticks(axes: Axes, names: Sequence[str], axis: Literal["x", "y"] = "x", most: int = MOST_TICKS) -> None:
    """Layer names without what all have in front, every n-th where there are many or little room."""
    names = [on_one_line(name) for name in without_shared_prefix(names)]
    room = letters(axes, axis)
    most = max(min(most, int(room * LETTER / 1.5)), 2)  # a line and a half each, slanted or not
    where = np.arange(0, len(names), -(-len(names) // most))
    shown = [n if len(n) <= 20 else "…" + n[-19:] for n in (names[i] for i in where)]
    labels = [verbatim(name) for name in shown]
    if axis == "y":
        axes.set_yticks(where, labels, fontsize="small")
    else:
        slanted = sum(map(len, shown)) + len(shown) > room
        turned, ha = (40, "right") if slanted else (0, "center")
        axes.set_xticks(where, labels, rotation=turned, ha=ha, fontsize="small")


def letters(axes: Axes, axis: Literal["x", "y"], size: float = TICK_SIZE) -> float:
    """How many letters of `size` times the font's have room along an axis, roughly: before anything is laid out."""
    pixels = axes.bbox.width if axis == "x" else axes.bbox.height
    return float(pixels / axes.figure.dpi * 72 / (LETTER * size * rcParams["font.size"]))


class Look(TypedDict):
    """What tells one line from the others."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, float]]
    markevery: tuple[int, int]


def look_of(index: int, points: int) -> Look:
    """The look of a figure's line number `index`, with a few markers over its `points`."""
    every = max(1, points // MOST_MARKERS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "markevery": (index * every // len(MARKERS) % every, every),  # staggered: lines that coincide stay apart
    }


def mark_nonfinite(axes: Axes, where: Ints, broken: NDArray[np.bool_], index: int) -> None:
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


def wrapped(name: str) -> str:
    """A name for a legend beside the axes."""
    return verbatim(fill(name, 18))


def verbatim(text: str) -> str:
    """`text` as it is: two dollars in the names of modules make no formula."""
    return text.replace("$", r"\$")


def legend_beside(axes: Axes, explained: Sequence[Line2D] = ()) -> None:
    """Beside the axes: the variants in their order, NaN, `explained`; none for one line's name alone."""
    _legend(axes, explained, "center left", (1.0, 0.5), rcParams["legend.fontsize"])


def legend_within(axes: Axes, explained: Sequence[Line2D] = ()) -> None:
    """The same within the axes, where it hides least, and no cross at their top: beside them may be others."""
    crosses = NONFINITE_LABEL in axes.get_legend_handles_labels()[1]
    _legend(axes, explained, "lower right" if crosses else "best", None, "x-small")


def _legend(
    axes: Axes,
    explained: Sequence[Line2D],
    where: Literal["best", "center left", "lower right"],
    anchor: tuple[float, float] | None,
    size: str | float,
) -> None:
    by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if by_label.pop(NONFINITE_LABEL, None):
        by_label[NONFINITE_LABEL] = Line2D([], [], color="black", marker="x", linestyle="", markeredgecolor="black")
    by_label.update({str(line.get_label()): line for line in explained})
    if len(by_label) > 1:
        size = size if len(by_label) <= 10 else "x-small"
        axes.legend(by_label.values(), by_label, fontsize=size, loc=where, bbox_to_anchor=anchor)

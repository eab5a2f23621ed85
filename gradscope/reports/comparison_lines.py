"""Lines, bands and marks of several variants on one pair of axes of a page.

What is drawn of a variant is called ``variant-2`` in each figure: the page's script shows and hides it by that name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from bokeh.models import AdaptiveTicker, ColumnDataSource, Range1d
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure
from numpy.typing import NDArray

from gradscope.reports.decades import ends_of_axis
from gradscope.reports.page_figure import COLOURS, DASHES, plain_figure
from gradscope.reports.shrink import starts_of
from gradscope.reports.step_curves import running_median
from gradscope.trace import Doubles, Ints

MARKERS: Final = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex")
HEIGHT = 460
MOST_MARKERS = 10  # on one line
MOST_POINTS = 1200  # of one line: of more, the extremes of blocks
PALE = 0.3
MARGIN = 0.03  # of the height, beside what is drawn; crosses stand in rows of that height
AT_BOTTOM, AT_TOP = "A triangle at the bottom is exactly zero.", "A cross at the top is NaN or Inf."


@dataclass(frozen=True, slots=True, eq=False)
class SharedAxes:
    """A figure while it is drawn, with the ends of its axis upwards.

    Attributes:
        said: Sentences about what was drawn.
        crossed: Variants that have a row of crosses.
        pointed: What the pointer finds.
        above: Variants whose line leaves the figure at the top, and its largest value.
    """

    figure: figure
    low: float
    high: float
    said: list[str] = field(default_factory=list)
    crossed: list[int] = field(default_factory=list)
    pointed: list[DataRenderer] = field(default_factory=list)
    above: dict[int, float] = field(default_factory=dict)

    def height(self, share: float) -> float:
        """Of the axis, from 0 at the bottom to 1 at the top."""
        log = self.figure.y_scale.__class__.__name__ == "LogScale"
        low, high = (math.log10(self.low), math.log10(self.high)) if log else (self.low, self.high)
        at = low + share * (high - low)
        return 10.0**at if log else at

    def say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.append(sentence)


def axes_of(x_label: str, y_label: str, low: float, high: float, *, log: bool = True) -> SharedAxes:
    """An empty figure whose axis upwards goes from `low` to `high`."""
    made = plain_figure(height=HEIGHT, x_label=x_label, y_label=y_label, y_type="log" if log else "linear")
    made.y_range = Range1d(start=low, end=high)
    enlarged(made, axis=19, ticks=17)
    return SharedAxes(made, low, high)


def enlarged(made: figure, *, axis: int, ticks: int) -> None:
    """Letters of so many pixels: they are read from the last row."""
    for one in made.axis:
        one.axis_label_text_font_size, one.major_label_text_font_size = f"{axis}px", f"{ticks}px"


def log_axes(x_label: str, y_label: str, sizes: Sequence[Doubles], usual: Sequence[Doubles] = ()) -> SharedAxes:
    """The same, logarithmic, as far as `sizes` go; what is far above `usual` leaves it at the top."""
    low, high = ends_of_axis(sizes, usual)
    room = max(0.2, 2 * MARGIN * (high - low))
    return axes_of(x_label, y_label, 10 ** (low - room), 10 ** (high + room))


def name_of(index: int) -> str:
    """What a variant's lines are called."""
    return f"variant-{index}"


def colour_of(index: int) -> str:
    """Of a variant."""
    return COLOURS[index % len(COLOURS)]


def look(index: int) -> tuple[str, str, str]:
    """Colour, dash and marker of a variant; twelve differ in colour or dash."""
    return colour_of(index), DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]


def band(axes: SharedAxes, index: int, where: Ints, low: Doubles, high: Doubles) -> None:
    """From the smallest to the largest of the seeds."""
    axes.say("The median of the seeds; shaded, their range.")
    axes.figure.varea(
        where.astype(np.float64), low, high, fill_color=colour_of(index), fill_alpha=0.15, name=name_of(index)
    )


def over_steps(axes: SharedAxes, index: int, steps: Ints, values: Doubles, log: bool) -> None:
    """A series; where there are many steps its running median, with the series itself pale behind it."""
    shown = np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)
    if (smooth := running_median(shown)) is not None:
        thin_line(axes, index, steps, shown, dash="solid", alpha=PALE, width=1.0)
        axes.say("Running median; pale, every step.")
        shown = smooth
    kept = extremes(shown, MOST_POINTS)
    axes.pointed.append(line(axes, index, steps[kept].astype(np.float64), shown[kept]))
    axes.figure.xaxis.ticker = AdaptiveTicker(min_interval=1, desired_num_ticks=8, mantissas=[1, 2, 5])


def thin_line(
    axes: SharedAxes,
    index: int,
    steps: Ints,
    values: Doubles,
    *,
    dash: Literal["solid", "dotted"],
    alpha: float,
    width: float,
) -> None:
    """A series without markers."""
    kept = extremes(values, MOST_POINTS)
    shown = np.where(np.isfinite(values[kept]), values[kept], np.nan)
    axes.figure.line(
        steps[kept].astype(np.float64),
        shown,
        color=colour_of(index),
        line_dash=dash,
        line_width=width,
        line_alpha=alpha,
        name=name_of(index),
    )


def line(axes: SharedAxes, index: int, x: Doubles, y: Doubles) -> DataRenderer:
    """A variant's line, with a few markers that are staggered: lines that coincide stay apart."""
    colour, dash, marker = look(index)
    source = ColumnDataSource({"x": x, "y": y, "variant": np.full(len(x), index, np.int32)})
    drawn = axes.figure.line("x", "y", source=source, color=colour, line_dash=dash, line_width=3.5, name=name_of(index))
    if (y > axes.high).any():
        axes.above[index] = float(np.nanmax(y))
    every = max(1, len(x) // MOST_MARKERS)
    some = slice(index * every // len(MARKERS) % every, None, every)
    axes.figure.scatter(x[some], y[some], marker=marker, size=11, color=colour, name=name_of(index))
    return drawn


def crosses(axes: SharedAxes, index: int, where: Ints, broken: NDArray[np.bool_]) -> None:
    """A row of crosses near the top: each variant has its own."""
    if broken.any():
        at = np.flatnonzero(broken)[starts_of(int(broken.sum()), MOST_POINTS)]
        mark(axes, index, where[at], axes.height(1 - MARGIN * (0.6 + len(axes.crossed))), "x", AT_TOP)
        axes.crossed.append(index)


def mark(axes: SharedAxes, index: int, where: Ints, height: float, marker: str, meaning: str) -> None:
    """Marks of a variant at one height, and what they mean."""
    axes.figure.scatter(
        where.astype(np.float64), np.full(len(where), height), marker=marker, size=13, line_width=3,
        color=colour_of(index), name=name_of(index),
    )  # fmt: skip
    axes.say(meaning)


def extremes(values: Doubles, most: int) -> Ints:
    """Which of many points are drawn: the smallest and the largest of each block, so that no spike is lost."""
    if len(values) <= most:
        return np.arange(len(values))
    kept: set[int] = {0, len(values) - 1}
    for block in np.array_split(np.arange(len(values)), most // 2):
        known = block[np.isfinite(values[block])]
        kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])} if len(known) else {*block[:1]}
    return np.array(sorted(kept))

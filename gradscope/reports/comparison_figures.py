"""The variants of a comparison as lines on shared axes: gradient by time and by depth, gradient norm, loss.

How one is drawn is told in `comparison_lines`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from bokeh.models import AdaptiveTicker, ColumnDataSource, CustomJSHover, FixedTicker, HoverTool, PlainText, Range1d
from bokeh.plotting import figure

from gradscope.records import Quantity
from gradscope.reports.comparison import ComparedVariant, Comparison
from gradscope.reports.comparison_lines import (
    AT_BOTTOM,
    MARGIN,
    MOST_POINTS,
    SharedAxes,
    axes_of,
    band,
    colour_of,
    crosses,
    extremes,
    line,
    log_axes,
    mark,
    name_of,
    over_steps,
    thin_line,
)
from gradscope.reports.decades import drawable
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.passage import joined_symbols
from gradscope.reports.profile import Profile, depth_story, positions, time_profile, without_shared_prefix
from gradscope.reports.step_curves import Losses, broken_steps, losses_of, norms_of, spreads_out
from gradscope.trace import Doubles, Ints, Trace

MOST_NAMES, LONGEST = 16, 20  # layers that are named on an axis, and letters of a name
SHORT_NAMES = 60  # letters of all names that stand beside each other


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """One figure.

    Attributes:
        name: Unique in the page.
        title: What it shows.
        figure: All variants on one pair of axes.
        notes: Sentences about what is drawn.
        above: Variants whose line leaves the figure at the top, and its largest value.
    """

    name: str
    title: str
    figure: figure
    notes: tuple[str, ...]
    above: tuple[tuple[int, float], ...]


def pictures(comparison: Comparison) -> Iterator[Picture]:
    """Those for which some variant has the numbers; by time first: a recurrent model has few layers."""
    times = [_Profiles.of(v, time_profile) for v in comparison.variants]
    if any(one.median for one in times):
        yield _by_time(times)
    depths = [_Profiles.of(v, depth_story) for v in comparison.variants]
    if any(one.median for one in depths):
        yield _by_depth(depths)
    losses = [losses_of([run.trace for run in v.runs]) for v in comparison.variants]
    if any(one.known.any() or one.broken.any() for one in losses):
        yield _loss(losses, len(comparison.seeds))
    if any(norms_of(v.runs[0].trace)[0] is not None for v in comparison.variants):
        yield _norm(comparison)


@dataclass(frozen=True, slots=True, eq=False)
class _Profiles:
    """One variant's profile over all seeds, and with several that of each which has as many places."""

    median: Profile | None
    each: tuple[Profile, ...]

    @classmethod
    def of(cls, variant: ComparedVariant, profile: Callable[[Sequence[Trace]], Profile | None]) -> "_Profiles":
        traces = [run.trace for run in variant.runs]
        median = profile(traces)
        each = [profile([trace]) for trace in traces] if median is not None and len(traces) > 1 else []
        return cls(median, tuple(one for one in each if one is not None and len(one) == len(median or ())))


def _by_depth(profiles: Sequence[_Profiles]) -> Picture:
    known = [p.median for p in profiles if p.median is not None]
    longest = max(known, key=len)
    axes = log_axes("layer, from input to output", f"rms of {longest.symbol}", [p.rms for p in known])
    for index, found in enumerate(profiles):
        if found.median is not None:
            _profile(axes, index, found, np.arange(len(found.median)))
    same = all(p.places == longest.places for p in known)
    _name_layers(axes.figure, longest.places if same else tuple(str(i + 1) for i in range(len(longest))))
    title = f"Gradient {longest.symbol} by depth"
    return _picture("depth", title, axes, "layer", "@place")


def _by_time(profiles: Sequence[_Profiles]) -> Picture:
    known = [p.median for p in profiles if p.median is not None]
    aligned = len({len(p) for p in known}) > 1
    symbol = joined_symbols(p.symbol for p in known)
    axes = log_axes(
        "position, counted from the end of the sequence" if aligned else "position in the sequence",
        f"rms of {symbol}",
        [p.rms for p in known],
        [p.positive[:1] if p.reverse else p.positive[-1:] for p in known],
    )
    for index, found in enumerate(profiles):
        if (profile := found.median) is None:
            continue
        where = positions(profile, aligned)
        _profile(axes, index, found, where)
        at, height = profile.memory_mark
        if not math.isnan(at):
            axes.figure.scatter(
                [where[0] + at], [height], size=18, fill_alpha=0, line_width=4, line_color=colour_of(index),
                name=name_of(index),
            )  # fmt: skip
            axes.say("A ring: 1/1000 is left of the gradient at the end.")
        if profile.cuts:
            axes.say("A gap: truncated, no gradient goes further back.")
    axes.figure.xaxis.ticker = AdaptiveTicker(min_interval=1, desired_num_ticks=8, mantissas=[1, 2, 5])
    return _picture("time", f"Gradient {symbol} by time", axes, "position", "@place")


def _loss(losses: Sequence[Losses], seeds: int) -> Picture:
    everything: Doubles = np.concatenate([part[one.known] for one in losses for part in (one.low, one.high)])
    if log := spreads_out(everything):  # one variant explodes: the others would lie on the axis
        axes = log_axes("step", "loss", [everything])
    else:
        low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
        room = 2 * MARGIN * (high - low) or 0.5
        axes = axes_of("step", "loss", low - room, high + room, log=False)
    for index, one in enumerate(losses):
        if seeds > 1 and one.known.any():
            shown = np.flatnonzero(one.known)[extremes(one.high[one.known], MOST_POINTS)]
            band(axes, index, one.steps[shown], one.low[shown], one.high[shown])
        over_steps(axes, index, one.steps, np.where(np.isfinite(one.middle), one.middle, np.nan), log)
        crosses(axes, index, one.steps, one.broken)
    return _picture("loss", "Loss by step", axes, "step", "$x{0}")


def _norm(comparison: Comparison) -> Picture:
    norms = [norms_of(v.runs[0].trace) for v in comparison.variants]
    axes = log_axes("step", "‖∂L/∂w‖ of all parameters", [n for pair in norms for n in pair if n is not None])
    for index, (variant, (raw, applied)) in enumerate(zip(comparison.variants, norms, strict=True)):
        trace = variant.runs[0].trace
        if raw is None:
            continue
        over_steps(axes, index, trace.steps, raw, log=True)
        if applied is not None:
            thin_line(axes, index, trace.steps, applied, dash="dotted", alpha=0.9, width=2.5)
            axes.say("Thin and dotted: as the optimizer read it, after clipping.")
        crosses(axes, index, trace.steps, broken_steps(trace, Quantity.TOTAL_NORM))
    if len(comparison.seeds) > 1:
        axes.say(f"Of seed {comparison.seeds[0]}.")
    return _picture("norm", "Gradient norm by step", axes, "step", "$x{0}")


def _picture(name: str, title: str, axes: SharedAxes, along: str, place: str) -> Picture:
    """The figure as it is placed, with what the pointer is told: the names are known to the page's script."""
    tips = [("", "@variant{custom}"), (along, place), (str(axes.figure.yaxis[0].axis_label), "$y{custom}")]
    told: dict[str, Literal["numeral", "datetime", "printf"] | CustomJSHover] = {
        "@variant": CustomJSHover(code="return gradscope.scenario.name(value)"),
        "$y": CustomJSHover(code="return gradscope.scenario.number(value)"),
    }
    axes.figure.add_tools(HoverTool(renderers=axes.pointed, tooltips=tips, formatters=told, visible=False))
    return Picture(
        name=f"compared-{name}",
        title=title,
        figure=axes.figure,
        notes=tuple(axes.said),
        above=tuple(axes.above.items()),
    )


def _profile(axes: SharedAxes, index: int, found: _Profiles, where: Ints) -> None:
    profile = found.median
    assert profile is not None
    axes.say("Median over the recorded steps.")
    if found.each:
        all_of = np.stack([drawable(one.rms) for one in found.each])
        known = np.flatnonzero(~np.isnan(all_of).any(axis=0))
        band(axes, index, where[known], all_of[:, known].min(axis=0), all_of[:, known].max(axis=0))
    x, y = profile.line(where)
    line(axes, index, x, y)
    places = {"x": where, "y": profile.rms, "place": [on_one_line(place) for place in profile.places]}
    source = ColumnDataSource(places | {"variant": np.full(len(where), index, np.int32)})
    # what the pointer finds: each place, also where no marker is drawn
    axes.pointed.append(axes.figure.scatter("x", "y", source=source, size=14, alpha=0, name=name_of(index)))
    zero = np.flatnonzero(profile.seen & ~profile.nonfinite & (profile.rms == 0))
    if len(zero):
        mark(axes, index, where[zero], axes.height(MARGIN / 2), "inverted_triangle", AT_BOTTOM)
    crosses(axes, index, where, profile.nonfinite)


def _name_layers(made: figure, names: Sequence[str]) -> None:
    """Every n-th layer by name; the names are no formulas, whatever dollars they hold."""
    short = [shortened(on_one_line(name), LONGEST) for name in without_shared_prefix(names)]
    shown = range(0, len(names), math.ceil(len(names) / MOST_NAMES))
    made.xaxis.ticker = FixedTicker(ticks=list(shown))
    made.xaxis.major_label_overrides = {i: PlainText(text=short[i]) for i in shown}
    if sum(len(short[i]) + 2 for i in shown) > SHORT_NAMES:
        made.xaxis.major_label_orientation = 0.7
    made.x_range = Range1d(start=-0.5, end=len(names) - 0.5)

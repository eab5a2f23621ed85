"""Sizes as colours over the training steps: upwards the layers of a network, or the time within its sequences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gradscope.records import Quantity, Statistic
from gradscope.reports.canvas import MOST_TICKS, is_size, limits, name_ticks, panel_figure, stat_of, styled, verbatim
from gradscope.reports.decades import ends_of_colours
from gradscope.reports.passage import Passage, joined_symbols, passages
from gradscope.reports.profile import SYMBOL, layers, place
from gradscope.trace import Doubles, Ints, Trace

UNSEEN_COLOUR, NONFINITE_COLOUR, ZERO_COLOUR = "#d9d9d9", "#D40000", "#ffffff"
SEAM = {"color": "#333333", "linewidth": 0.8}  # between stacked layers
CUT = {"color": "#333333", "linewidth": 0.8, "linestyle": (0, (3, 3))}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """The cells of one panel.

    Attributes:
        steps: Numbers of the recorded steps. Shape (step,).
        values: Shape (step, place), as the next two.
        nonfinite: Whether it had NaN or Inf.
        seen: Whether it was observed.
        places: A name for each place, from the bottom up.
        floors: Where one of several stacked layers begins, with its name.
        cuts: Places before which the gradient stops.
        stat: What the values are.
    """

    steps: Ints
    values: Doubles
    nonfinite: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    places: tuple[str, ...]
    floors: tuple[tuple[int, str], ...] = ()
    cuts: tuple[int, ...] = ()
    stat: Statistic = Statistic.RMS


@styled
def heatmaps(traces: Mapping[str, Trace], quantity: Quantity, title: str = "") -> Figure:
    """log₁₀ of the rms, depth × step, a panel for each name, all in the same colours.

    Grey was never observed, red holds NaN or Inf, white is exactly zero.
    """
    grids = {name: by_depth(trace, quantity) for name, trace in traces.items()}
    return _panels({n: g for n, g in grids.items() if g.places}, title, SYMBOL[quantity], "depth")


@styled
def heatmaps_through_time(traces: Mapping[str, Trace], title: str = "") -> Figure:
    """log₁₀ of the gradient that arrives at each time, time × step, in the colours of `heatmaps`.

    A panel for each name, with its layers on top of each other; of one trace a panel for each layer and direction.
    """
    found = {name: passages(trace) for name, trace in traces.items()}
    if len(found) == 1:
        ((_, alone),) = found.items()
        found = {passage.name: [passage] for passage in alone}
    grids = {name: _by_time(stacked) for name, stacked in found.items() if stacked}
    return _panels(grids, title, joined_symbols(p.symbol for stacked in found.values() for p in stacked), "time")


def by_depth(trace: Trace, quantity: Quantity, stat: Statistic = Statistic.RMS, *, module: str | None = None) -> Grid:
    """The cells of the layers that were observed, of the modules that `module` names, where it does."""
    found = layers(trace, quantity, stat, module=module)
    return Grid(
        steps=trace.steps,
        values=found.values,
        nonfinite=found.nonfinite,
        seen=found.seen,
        places=tuple(map(place, found.sites)),
        stat=stat,
    )


def _by_time(stacked: Sequence[Passage]) -> Grid:
    """The first layer at the bottom; within each, the start of the sequence."""
    starts = np.cumsum([0, *(p.times for p in stacked)])
    one_module = len({p.recurrence.module for p in stacked}) == 1
    names = [p.layer if one_module else p.name for p in stacked]
    return Grid(
        steps=stacked[0].steps,
        values=np.concatenate([p.rms for p in stacked], axis=1),
        nonfinite=np.concatenate([p.nonfinite for p in stacked], axis=1),
        seen=np.concatenate([p.seen for p in stacked], axis=1),
        places=tuple(str(t) for p in stacked for t in range(p.times)),
        floors=tuple(zip(starts[:-1].tolist(), names, strict=True)) if len(stacked) > 1 else (),
        cuts=tuple(int(start) + cut for start, p in zip(starts, stacked, strict=False) for cut in p.cuts if cut),
    )


def _panels(grids: Mapping[str, Grid], title: str, symbol: str, axis: str) -> Figure:
    figure, rows, columns = panel_figure(len(grids), f"{title}: {symbol} by {axis} and step".removeprefix(": "))
    norm = colours(list(grids.values()))
    patches: dict[str, Patch] = {}
    drawn: list[Axes] = []
    steps = max((grid.steps for grid in grids.values()), key=len)
    same = len({(grid.places, grid.floors) for grid in grids.values()}) == 1
    for index, (name, grid) in enumerate(grids.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        drawn.append(axes)
        mesh = _cells(axes, grid, norm, patches)
        if axis == "time":
            _time_ticks(axes, grid)
        elif same or columns == 1:
            name_ticks(axes, grid.places, axis="y", most=MOST_TICKS if rows == 1 and columns < 3 else 6)
        else:  # names of its own beside each panel would leave no room for the panels: layers are counted
            axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
            axes.yaxis.set_major_formatter(lambda i, _: str(int(i) + 1) if i >= 0 else "")
        _step_axis(axes, steps, bins=4 if columns < 4 else 3)
        if len(grid.steps) < len(steps):
            axes.patch.set(facecolor="white", edgecolor="#c8c8c8", hatch="//")
            patches["no step"] = Patch(facecolor="white", edgecolor="#c8c8c8", hatch="//", label="no step")
        axes.set_title(verbatim(fill(name, 24 if columns < 4 else 20)), fontsize=14 if columns < 4 else 12, pad=6)
        if same and index % columns:
            axes.tick_params(labelleft=False)
        if index + columns >= len(grids):
            axes.set_xlabel("step")
        if index % columns == 0:
            axes.set_ylabel(_LABEL[axis] if rows == 1 else _LABEL[axis].partition(",")[0])
    _colour_bar(drawn, mesh, Statistic.RMS, symbol)
    if patches:
        figure.legend(handles=list(patches.values()), loc="outside lower center", ncols=4)
    return figure


_LABEL = {"depth": "layer, input at the bottom", "time": "position, start at the bottom"}


def draw_map(axes: Axes, grid: Grid, symbol: str) -> list[Patch]:
    """Depth × step on given axes, beside which the colour bar takes its place.

    Returns:
        What a legend says of the special cells.
    """
    patches: dict[str, Patch] = {}
    mesh = _cells(axes, grid, colours([grid]), patches)
    name_ticks(axes, grid.places, axis="y")
    _step_axis(axes, grid.steps, bins=6)
    axes.set_xlabel("step")
    axes.set_ylabel(_LABEL["depth"])
    _colour_bar([axes], mesh, grid.stat, symbol)
    return list(patches.values())


def colours(grids: Sequence[Grid]) -> Normalize:
    """What all of them share."""
    values = np.concatenate([grid.values.ravel() for grid in grids])
    if not is_size(grids[0].stat):
        return Normalize(*limits(grids[0].stat, values))
    return Normalize(*ends_of_colours(values))


def _step_axis(axes: Axes, steps: Ints, bins: int) -> None:
    """The cells' indices as the numbers of their steps."""
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=bins, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda i, _: str(steps[int(i)]) if 0 <= i < len(steps) else "")


def _colour_bar(drawn: Sequence[Axes], mesh: QuadMesh, stat: Statistic, symbol: str) -> None:
    extend = "both" if is_size(stat) else "neither"
    bar = drawn[0].figure.colorbar(mesh, ax=drawn, pad=0.02, aspect=30, extend=extend)
    said = stat_of(stat, symbol)
    bar.set_label(f"log₁₀ {said}" if is_size(stat) else said)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=is_size(stat), nbins=8))


def _cells(axes: Axes, grid: Grid, norm: Normalize, patches: dict[str, Patch]) -> QuadMesh:
    """One panel; the special cells that it holds are added to `patches`."""
    axes.grid(False)
    edges = np.arange(len(grid.steps) + 1) - 0.5
    places = np.arange(len(grid.places) + 1) - 0.5
    known, shown = np.isfinite(grid.values), grid.values
    if is_size(grid.stat):
        known &= grid.values > 0
        shown = np.log10(np.where(known, grid.values, 1))
    mesh = axes.pcolormesh(
        edges, places, np.ma.masked_array(shown.T, ~known.T), cmap="viridis", norm=norm, rasterized=True
    )
    for name, cells, colour in (
        ("never observed", ~grid.seen, UNSEEN_COLOUR),
        ("exactly zero", (grid.values == 0) & ~grid.nonfinite & is_size(grid.stat), ZERO_COLOUR),
        ("NaN or Inf", grid.nonfinite, NONFINITE_COLOUR),
    ):
        if cells.any():
            layer = np.ma.masked_array(np.ones(cells.T.shape), ~cells.T)
            axes.pcolormesh(edges, places, layer, cmap=_plain(colour), rasterized=True)
            patches.setdefault(name, Patch(facecolor=colour, edgecolor="#888888", label=name))
    return mesh


def _time_ticks(axes: Axes, grid: Grid) -> None:
    """Positions; of stacked layers each one's name, and a line between them."""
    if grid.floors:
        floors = np.array([start for start, _ in grid.floors] + [len(grid.places)])
        axes.set_yticks((floors[:-1] + floors[1:] - 1) / 2, [verbatim(name) for _, name in grid.floors], fontsize=12)
        for floor in floors[1:-1]:
            axes.axhline(floor - 0.5, **SEAM)  # type: ignore[arg-type]
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for cut in grid.cuts:
        axes.axhline(cut - 0.5, **CUT)  # type: ignore[arg-type]


def _plain(colour: str) -> Colormap:
    return LinearSegmentedColormap.from_list("plain", [colour, colour])

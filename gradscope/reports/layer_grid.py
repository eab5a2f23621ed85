"""All layers over all steps, several quantities of each: what the map of a page shows, and the story of one layer.

A layer is a module of which something was recorded; the layers stand in the order in which they first ran. Each
quantity is one *plane*, a grid (layer, column): a column is a block of steps, and shows the extreme in it (`shrink`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from gradscope.findings import Json
from gradscope.records import Quantity, Statistic
from gradscope.reports.codes import encoded
from gradscope.reports.shrink import Cells, shrunk, starts_of
from gradscope.trace import Doubles, Ints, Trace

MOST_CELLS: Final = 800_000  # of all planes together: 1.6 MB before they are deflated
FEWEST_COLUMNS, MOST_COLUMNS = 100, 2000
_ROWS_AT_ONCE = 256  # what is computed of a plane at a time: a long run of many layers has gigabytes of statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One quantity that the map can show.

    Attributes:
        key: Short, for scripts.
        label: For a person, with its unit or what it is relative to.
        scale: How colours and axes are spaced: numbers over decades, or shares from 0 to 1.
        quantity: Whose statistic.
        statistic: Which.
        over: Another quantity whose same statistic it is divided by.
    """

    key: str
    label: str
    scale: Literal["log", "share"]
    quantity: Quantity
    statistic: Statistic
    over: Quantity | None = None


PLANES: Final = (
    Plane(
        key="gradient",
        label="gradient ∂L/∂y, rms",
        scale="log",
        quantity=Quantity.OUTPUT_GRAD,
        statistic=Statistic.RMS,
    ),
    Plane(
        key="gradient-max",
        label="gradient ∂L/∂y, largest",
        scale="log",
        quantity=Quantity.OUTPUT_GRAD,
        statistic=Statistic.ABS_MAX,
    ),
    Plane(key="activation", label="activation y, rms", scale="log", quantity=Quantity.OUTPUT, statistic=Statistic.RMS),
    Plane(
        key="activation-max",
        label="activation y, largest",
        scale="log",
        quantity=Quantity.OUTPUT,
        statistic=Statistic.ABS_MAX,
    ),
    Plane(
        key="dead",
        label="dead units, share",
        scale="share",
        quantity=Quantity.OUTPUT,
        statistic=Statistic.DEAD_FRACTION,
    ),
    Plane(
        key="saturated",
        label="saturated elements, share",
        scale="share",
        quantity=Quantity.OUTPUT,
        statistic=Statistic.SATURATED_FRACTION,
    ),
    Plane(
        key="weight-gradient",
        label="gradient of the weight ∂L/∂w, rms",
        scale="log",
        quantity=Quantity.WEIGHT_GRAD,
        statistic=Statistic.RMS,
    ),
    Plane(
        key="update",
        label="update ratio ‖Δw‖₂ / ‖w‖₂",
        scale="log",
        quantity=Quantity.WEIGHT_UPDATE,
        statistic=Statistic.L2_NORM,
        over=Quantity.WEIGHT,
    ),
    Plane(key="weight", label="weight norm ‖w‖₂", scale="log", quantity=Quantity.WEIGHT, statistic=Statistic.L2_NORM),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One row of the map.

    Attributes:
        module: As in `named_modules()`; "" is the model itself.
        module_type: Its class.
        depth: Order of first execution; −1 if it never ran as a module.
    """

    module: str
    module_type: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerGrid:
    """The layers, and each plane of which at least one value was seen.

    Attributes:
        layers: From input to output.
        first: Number of the first step of each column. Shape (column,).
        last: Number of the last. Shape (column,).
        planes: Cells of shape (layer, column).
    """

    layers: tuple[Layer, ...]
    first: Ints
    last: Ints
    planes: Mapping[Plane, Cells]

    def to_dict(self) -> dict[str, Json]:
        """What `page/layers.js` reads."""
        return {
            "layers": [[layer.module, layer.module_type, layer.depth] for layer in self.layers],
            "first": [int(step) for step in self.first],
            "last": [int(step) for step in self.last],
            "planes": [
                {
                    "key": plane.key,
                    "label": plane.label,
                    "scale": plane.scale,
                    "grid": encoded(cells.values, cells.nonfinite, cells.seen),
                }
                for plane, cells in self.planes.items()
            ],
        }


def layer_grid(trace: Trace, *, most_cells: int = MOST_CELLS) -> LayerGrid | None:
    """The grid of a trace; None where it has no layer with a value."""
    columns = {plane: _columns(trace, plane) for plane in PLANES}
    columns = {plane: found for plane, found in columns.items() if _is_seen(trace, plane, list(found.values()))}
    layers = _layers(trace, {column for found in columns.values() for column in found.values()})
    if not layers or not len(trace.steps):
        return None
    most = most_cells // (len(layers) * len(columns))
    starts = starts_of(len(trace.steps), min(max(most, FEWEST_COLUMNS), MOST_COLUMNS))
    planes = {plane: _plane(trace, plane, found, layers, starts) for plane, found in columns.items()}
    ends = np.append(starts[1:], len(trace.steps)) - 1
    return LayerGrid(
        layers=layers,
        first=trace.steps[starts],
        last=trace.steps[ends],
        planes=planes,
    )


def _is_seen(trace: Trace, plane: Plane, columns: list[int]) -> bool:
    """Whether there is a number to show; a quantity that was never finite is shown as its rms alone."""
    if not np.isnan(trace.statistics[plane.statistic][:, columns]).all():
        return True
    return plane.statistic is Statistic.RMS and bool(
        (trace.statistics[Statistic.NONFINITE_COUNT][:, columns] > 0).any()
    )


def _columns(trace: Trace, plane: Plane) -> dict[str, int]:
    """The site that stands for each module: its first output, or its largest parameter."""
    found: dict[str, int] = {}
    for column in trace.columns(plane.quantity):
        found.setdefault(trace.sites[column].module, column)
    if plane.quantity in (Quantity.OUTPUT, Quantity.OUTPUT_GRAD):
        return found
    sizes = _sizes(trace, plane.quantity)
    for column, size in sizes.items():
        module = trace.sites[column].module
        if size > sizes[found[module]]:
            found[module] = column
    return found


def _sizes(trace: Trace, quantity: Quantity) -> dict[int, float]:
    """Elements of each site; 0 where it was never observed."""
    columns = list(trace.columns(quantity))
    numel = trace.statistics[Statistic.NUMEL][:, columns]
    most = np.where(np.isnan(numel), 0, numel).max(axis=0, initial=0)
    return dict(zip(columns, most.tolist(), strict=True))


def _layers(trace: Trace, columns: set[int]) -> tuple[Layer, ...]:
    """The modules of those sites that were observed, by depth; what never ran as a module stands beside its owner."""
    numel = trace.statistics[Statistic.NUMEL]
    found: dict[str, Layer] = {}
    for column in sorted(columns, key=lambda c: (trace.sites[c].depth < 0, trace.sites[c].depth, c)):
        site = trace.sites[column]
        if site.module not in found and not np.isnan(numel[:, column]).all():
            found[site.module] = Layer(module=site.module, module_type=site.module_type, depth=site.depth)
    return tuple(found.values())


def _plane(trace: Trace, plane: Plane, columns: Mapping[str, int], layers: tuple[Layer, ...], starts: Ints) -> Cells:
    """One plane, shrunk, some rows at a time."""
    parts = [
        shrunk(
            _cells(trace, plane, [columns.get(layer.module) for layer in some]), starts, shares=plane.scale == "share"
        )
        for some in _parts(layers)
    ]
    return Cells(
        values=np.concatenate([part.values for part in parts]),
        nonfinite=np.concatenate([part.nonfinite for part in parts]),
        seen=np.concatenate([part.seen for part in parts]),
    )


def _parts(layers: tuple[Layer, ...]) -> Iterator[tuple[Layer, ...]]:
    for start in range(0, len(layers), _ROWS_AT_ONCE):
        yield layers[start : start + _ROWS_AT_ONCE]


def _cells(trace: Trace, plane: Plane, columns: list[int | None]) -> Cells:
    """The plane of some layers over all steps, (layer, step); a layer without such a site was never observed."""
    known = [column for column in columns if column is not None]
    rows = [row for row, column in enumerate(columns) if column is not None]
    shape = (len(columns), len(trace.steps))
    values, nonfinite, seen = np.full(shape, np.nan), np.zeros(shape, bool), np.zeros(shape, bool)
    values[rows] = _values(trace, plane, known)
    seen[rows] = ~np.isnan(values[rows])
    if plane.scale == "log":
        nonfinite[rows] = trace.statistics[Statistic.NONFINITE_COUNT][:, known].T > 0
        seen[rows] |= nonfinite[rows]
    return Cells(values=values, nonfinite=nonfinite, seen=seen)


def _values(trace: Trace, plane: Plane, columns: list[int]) -> Doubles:
    """(layer, step)."""
    values = trace.statistics[plane.statistic][:, columns].T.astype(np.float64)
    if plane.over is None:
        return values
    by_key = {(trace.sites[c].module, trace.sites[c].name): c for c in trace.columns(plane.over)}
    under = [by_key.get((trace.sites[c].module, trace.sites[c].name)) for c in columns]
    divisors = np.full(values.shape, np.nan)
    rows = [row for row, column in enumerate(under) if column is not None]
    divisors[rows] = trace.statistics[plane.statistic][:, [c for c in under if c is not None]].T
    ratios: Doubles = np.divide(values, divisors, out=np.full(values.shape, np.nan), where=divisors > 0)
    return ratios

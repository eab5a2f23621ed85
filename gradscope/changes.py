"""Layers that do not behave as they did: their gain, dead share and update ratio in one run against another.

A run is not repeated by the next: another seed, another order of the data, and every number is a little different. So
what is compared is the median over the steps that both runs have covered, beside the middle half of its values; a
change is *marked* where it is larger than what another seed alone makes of it, and larger than the steps of a run
differ among themselves.

    marked  ⇔  |median_B − median_A| ≥ the bar,  and the middle halves of the two do not overlap

The bars lie above what another seed was measured to make of nine small networks (Sigmoid, Tanh, ReLU, BatchNorm,
convolutions, attention, LSTM), each with Adam and with SGD, four or five seeds and 30 to 100 steps: of 4,000 pairs of
gains the largest difference was 0.22 decades, of 1,600 update ratios 0.53, those of the Sigmoids left out: where the
gradient lies under Adam's eps, the seed alone moves them by up to a decade. A layer of n units loses some of them by
chance, in these networks up to 44 % of 32, so there the bar is also four standard errors of the difference of two such
shares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from gradscope.alignment import Alignment
from gradscope.findings import Json
from gradscope.gains import Known, gains_by_step, module_of
from gradscope.records import Quantity, Statistic
from gradscope.trace import Doubles, Ints, Trace

LEAST_STEPS = 3  # of fewer there is no middle half


class Measure(StrEnum):
    """What is compared of a layer."""

    GAIN = "gain"  # ‖∂L/∂x‖₂ / ‖∂L/∂y‖₂, in decades; of a recurrent layer also that of a time step
    DEAD = "dead_fraction"  # share of an activation's units
    UPDATE = "update_ratio"  # ‖Δw‖₂/‖w‖₂ over all parameters of a module, in decades


# What a change must reach at least: decades, or a share of the units.
BARS: Final[Mapping[Measure, float]] = {Measure.GAIN: 0.25, Measure.DEAD: 0.2, Measure.UPDATE: 0.6}
STANDSTILL: Final = -6.0  # decades: a weight that moves by less than a millionth of itself does not, see GS501
_ERRORS = 4.0
_UNITS = 16  # where the trace does not tell how many there are


@dataclass(frozen=True, slots=True)
class Middle:
    """Where the values of a layer lie over the steps of a run.

    Attributes:
        median: In the unit of the measure.
        low: A quarter of the values lies below.
        high: A quarter lies above.
        steps: How many values there are.
    """

    median: float
    low: float
    high: float
    steps: int

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {"median": self.median, "low": self.low, "high": self.high, "steps": self.steps}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One measure of one layer in both runs.

    Attributes:
        measure: What.
        layer: Module in A.
        module: The layer's name in A; of a recurrent layer's time steps the label, as `gains` names it.
        other: The same in B.
        a: In A.
        b: In B.
        bar: What the change must reach, in the same unit.
    """

    measure: Measure
    layer: str
    module: str
    other: str
    a: Middle
    b: Middle
    bar: float

    @property
    def by(self) -> float:
        """How far the median has moved from A to B, in decades or as a share."""
        return self.b.median - self.a.median

    @property
    def marked(self) -> bool:
        """Whether that is more than another seed or the steps themselves make of it."""
        apart = self.a.high < self.b.low or self.b.high < self.a.low
        return apart and abs(self.by) >= self.bar

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {
            "measure": self.measure.value,
            "module": self.module,
            "module_b": self.other,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "change": self.by,
            "bar": self.bar,
            "marked": self.marked,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """All that could be compared, and what only one run knows.

    Attributes:
        changes: Of every layer that both know, in A's order of execution, measure by measure.
        only_a: Layers of both of which only A knows a measure, by measure; by their names in A.
        only_b: The same of B.
    """

    changes: tuple[Change, ...]
    only_a: Mapping[Measure, tuple[str, ...]]
    only_b: Mapping[Measure, tuple[str, ...]]


def compare(a: Trace, b: Trace, alignment: Alignment, first: int, last: int) -> Compared:
    """Each measure of each layer that both have, over the steps from `first` to `last`."""
    changes: list[Change] = []
    only_a: dict[Measure, tuple[str, ...]] = {}
    only_b: dict[Measure, tuple[str, ...]] = {}
    shared = {name for name, _ in alignment.pairs} - alignment.retyped.keys()  # a ReLU has what a Sigmoid lacks
    units_a, units_b = units_of(a), units_of(b)
    for measure in Measure:
        in_a = _middles(_MEASURED[measure](a), a, first, last)
        in_b = _middles(_MEASURED[measure](b), b, first, last)
        names = {(alignment.in_a(module), part): (module, part) for module, part in in_b}
        for key, middle in in_a.items():
            if (other := names.get(key)) is not None:
                bar = BARS[measure]
                if measure is Measure.DEAD:
                    shares = middle.median, in_b[other].median
                    bar = max(bar, _by_chance(*shares, units_a[key[0]], units_b[other[0]]))
                changes.append(
                    Change(
                        measure=measure,
                        layer=key[0],
                        module="".join(key),
                        other="".join(other),
                        a=middle,
                        b=in_b[other],
                        bar=bar,
                    )
                )
        for found, mine, others in ((only_a, in_a.keys(), names.keys()), (only_b, names.keys(), in_a.keys())):
            missing = tuple("".join(key) for key in mine if key not in others and key[0] in shared)
            if missing:
                found[measure] = missing
    return Compared(changes=tuple(changes), only_a=only_a, only_b=only_b)


def _middles(known: Mapping[str, Known], trace: Trace, first: int, last: int) -> dict[tuple[str, str], Middle]:
    """By module and what is left of the label; in the order of execution."""
    depths = {site.module: site.depth for site in trace.sites}
    found = {}
    for label, one in known.items():
        steps = trace.steps[one.step]
        values = one.value[(steps >= first) & (steps <= last)]
        if len(values) >= LEAST_STEPS:
            module = module_of(label, depths.keys())
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            found[module, label.removeprefix(module)] = Middle(float(middle), float(low), float(high), len(values))
    return dict(sorted(found.items(), key=lambda item: (depths.get(item[0][0], -1), item[0])))


def _by_chance(one: float, other: float, units: int, others: int) -> float:
    """By how much two shares of so many units may differ where each unit is dead by chance.

    Formula:
        4 √(p (1 − p) (1/n + 1/m)), p the mean of both shares.
    """
    share = (one + other) / 2
    return float(_ERRORS * np.sqrt(share * (1 - share) * (1 / units + 1 / others)))


def units_of(trace: Trace) -> dict[str, int]:
    """How many units each module returns, by name: the rows of the weight that was last applied before it, or in it."""
    shapes = trace.meta.get("shapes")
    rows = {}
    for column in trace.columns(Quantity.WEIGHT):
        site = trace.sites[column]
        shape = shapes.get(f"{site.module}.{site.name}".lstrip(".")) if isinstance(shapes, Mapping) else None
        if isinstance(shape, list) and shape and isinstance(shape[0], int):
            rows[site.depth] = shape[0]
    found, last = {}, _UNITS
    for module, depth in sorted({s.module: s.depth for s in trace.sites}.items(), key=lambda item: item[1]):
        last = rows.get(depth, last) if depth >= 0 else last
        found[module] = last
    return found


def dead_shares(trace: Trace) -> dict[str, Known]:
    """The share of dead units of each activation, by module."""
    found: dict[str, Known] = {}
    for column in trace.columns(Quantity.OUTPUT):
        share = trace.statistics[Statistic.DEAD_FRACTION][:, column].astype(np.float64)
        steps = np.flatnonzero(~np.isnan(share))
        if len(steps):
            found.setdefault(trace.sites[column].module, Known(steps, share[steps]))
    return found


def update_ratios(trace: Trace) -> dict[str, Known]:
    """log₁₀ of ‖Δw‖₂/‖w‖₂ of each module, its parameters taken together: of a bias that began at zero it says nothing.

    `STANDSTILL` at least: below it nothing moves, and how little it is another seed decides.
    """
    weights = {(trace.sites[c].module, trace.sites[c].name): c for c in trace.columns(Quantity.WEIGHT)}
    pairs: dict[str, list[tuple[int, int]]] = {}
    for column in trace.columns(Quantity.WEIGHT_UPDATE):
        site = trace.sites[column]
        if (weight := weights.get((site.module, site.name))) is not None:
            pairs.setdefault(site.module, []).append((column, weight))
    found = {}
    for module, columns in pairs.items():
        moved, size = (_norm(trace, list(which)) for which in zip(*columns, strict=True))
        steps = np.flatnonzero(np.isfinite(moved) & np.isfinite(size) & (size > 0))
        ratio = np.maximum(moved[steps] / size[steps], 10**STANDSTILL)
        found[module] = Known(steps, np.log10(ratio))
    return found


def _norm(trace: Trace, columns: list[int]) -> Doubles:
    """Of several parameters together; NaN in a step that lacks one of them. Shape (step,)."""
    norms = trace.statistics[Statistic.L2_NORM][:, columns].astype(np.float64)
    return np.asarray(np.sqrt(np.square(norms).sum(axis=1)))


def overlap(a: Ints, b: Ints) -> tuple[int, int, bool]:
    """First and last step that both runs have covered, and whether there are enough recorded steps of both in it.

    Where there are not, as of a run that goes on where the other has ended, it is from the first of all to the last.
    """
    first, last = int(max(a[0], b[0])), int(min(a[-1], b[-1]))
    enough = all(((steps >= first) & (steps <= last)).sum() >= LEAST_STEPS for steps in (a, b))
    if enough:
        return first, last, True
    return int(min(a[0], b[0])), int(max(a[-1], b[-1])), False


_MEASURED: Final[Mapping[Measure, Callable[[Trace], Mapping[str, Known]]]] = {
    Measure.GAIN: gains_by_step,
    Measure.DEAD: dead_shares,
    Measure.UPDATE: update_ratios,
}

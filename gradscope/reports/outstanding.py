"""The layers that stand apart from the others, without a verdict: what to look at first in a recording."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity, Statistic
from gradscope.reports.passage import column_medians
from gradscope.reports.profile import place
from gradscope.trace import Doubles, Trace

TELLING = (Quantity.OUTPUT_GRAD, Quantity.WEIGHT_GRAD, Quantity.OUTPUT)  # the first that was recorded is looked at
IDLE = (Statistic.DEAD_FRACTION, Statistic.SATURATED_FRACTION)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """Where one layer stands among the others.

    Attributes:
        place: The module, with the parameter or the part of a nested output where there is one.
        module_type: Its class.
        rms: In each recorded step. Shape (step,).
        median: Of the steps' finite values; NaN where there is none.
        decades: log₁₀ of it over that of the median layer; −inf where it is exactly zero, NaN where it is not known.
        idle: Share of dead units or saturated elements, whichever is larger, in the median step; NaN if not known.
        broken_steps: Steps in which it held NaN or Inf.
    """

    place: str
    module_type: str
    rms: Doubles
    median: float
    decades: float
    idle: float
    broken_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """The layers, the farthest first.

    Attributes:
        quantity: Whose rms was compared.
        layers: Those with NaN or Inf, then those that are exactly zero, then by decades.
    """

    quantity: Quantity
    layers: tuple[Standing, ...]

    @property
    def among(self) -> int:
        """How many there are."""
        return len(self.layers)


def standings(trace: Trace) -> Standings | None:
    """All layers of the first of `TELLING` that the trace has; None if it has none of them."""
    for quantity in TELLING:
        layers = sorted(_layers(trace, quantity), key=_how_near)
        if layers:
            return Standings(quantity=quantity, layers=tuple(layers))
    return None


def _how_near(layer: Standing) -> tuple[int, float]:
    return -layer.broken_steps, 0.0 if np.isnan(layer.decades) else -abs(layer.decades)


def _layers(trace: Trace, quantity: Quantity) -> Iterator[Standing]:
    sites, rms = trace.by_depth(quantity, Statistic.RMS)
    broken = (trace.by_depth(quantity, Statistic.NONFINITE_COUNT)[1] > 0).sum(axis=0)
    medians = column_medians(rms.astype(np.float64))
    positive = medians[medians > 0]
    middle = float(np.median(positive)) if len(positive) else np.nan
    idle = _idle(trace)
    for i, site in enumerate(sites):
        with np.errstate(divide="ignore"):
            decades = float(np.log10(medians[i] / middle))
        yield Standing(
            place=place(site),
            module_type=site.module_type,
            rms=rms[:, i].astype(np.float64),
            median=float(medians[i]),
            decades=decades,
            idle=idle.get(site.module, np.nan),
            broken_steps=int(broken[i]),
        )


def _idle(trace: Trace) -> dict[str, float]:
    """By module, where it is known."""
    found: dict[str, float] = {}
    for stat in IDLE:
        sites, values = trace.by_depth(Quantity.OUTPUT, stat)
        for site, share in zip(sites, column_medians(values.astype(np.float64)), strict=True):
            if not np.isnan(share):
                found[site.module] = max(float(share), found.get(site.module, 0.0))
    return found

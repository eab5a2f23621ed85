"""What of a recording an experiment tracker is shown: a few numbers per step and the sites that stand out.

A trace has thousands of columns. Charts of all of them would say less than the smallest and largest of four measures:

    gain                rms(∂L/∂y) of a layer over that of the next one; 1 is kept, see `rules.gain`
    dead_fraction       of the units of an activation
    saturated_fraction  of the elements of an activation
    update_ratio        ‖Δw‖₂/‖w‖₂ of a parameter
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.records import COLUMN, Quantity, Site, Statistic
from gradscope.rules.layers import scales_only
from gradscope.trace import Doubles, Floats, StepRecord, Trace

# the values of one statistic, with the sites in the last axis: of one step, or of all
Table: TypeAlias = Callable[[Statistic], Floats]

_FRACTIONS = (Statistic.DEAD_FRACTION, Statistic.SATURATED_FRACTION)
_WORST = 3  # sites shown of each measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Extreme:
    """A site that stands out.

    Attributes:
        measure: "smallest gain", "largest update_ratio", …
        site: Where.
        value: Its median over the recorded steps.
    """

    measure: str
    site: Site
    value: float


class Selection:
    """The columns that matter, of a recording with these sites."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.sites = sites
        place = {(site.module, site.quantity, site.name): i for i, site in enumerate(sites)}
        self._totals = {
            f"gradient_norm_{name}": place["", Quantity.TOTAL_NORM, name]
            for name in ("raw", "applied")
            if ("", Quantity.TOTAL_NORM, name) in place
        }
        self._layers = _learned_layers(sites)
        self._outputs = [i for i, site in enumerate(sites) if site.quantity is Quantity.OUTPUT]
        pairs = [
            (i, place[site.module, Quantity.WEIGHT, site.name])
            for i, site in enumerate(sites)
            if site.quantity is Quantity.WEIGHT_UPDATE and (site.module, Quantity.WEIGHT, site.name) in place
        ]
        self._updates, self._weights = [i for i, _ in pairs], [i for _, i in pairs]

    def aggregates(self, table: Table, loss: Doubles) -> dict[str, Doubles]:
        """The numbers of each step, with the steps' shape; NaN where there is nothing to say."""
        measured = self._measures(table)
        norms = table(Statistic.L2_NORM)
        return {
            "loss": loss,
            **{name: norms[..., column].astype(np.float64) for name, column in self._totals.items()},
            "gain_smallest": _smallest(measured["gain"]),
            "gain_largest": _largest(measured["gain"]),
            **{f"{stat.value}_largest": _largest(measured[stat.value]) for stat in _FRACTIONS},
            "update_ratio_median": _median(measured["update_ratio"]),
            "nonfinite_elements": np.nansum(table(Statistic.NONFINITE_COUNT), axis=-1, dtype=np.float64),
        }

    def extremes(self, table: Table) -> list[Extreme]:
        """The sites with the smallest and the largest measures; `table` is of all steps."""
        measured = self._measures(table)
        places = {
            "gain": self._layers[:-1],
            **{stat.value: self._outputs for stat in _FRACTIONS},
            "update_ratio": self._updates,
        }
        found: list[Extreme] = []
        for measure, columns in places.items():
            medians = _median(measured[measure].T)
            order = [i for i in np.argsort(medians).tolist() if not np.isnan(medians[i])]
            ends = {"largest": order[::-1][:_WORST]}
            if measure in ("gain", "update_ratio"):
                ends = {"smallest": order[:_WORST], **ends}
            else:
                ends["largest"] = [i for i in ends["largest"] if medians[i] > 0]
            for end, chosen in ends.items():
                found += [
                    Extreme(measure=f"{end} {measure}", site=self.sites[columns[i]], value=float(medians[i]))
                    for i in chosen
                ]
        return found

    def _measures(self, table: Table) -> dict[str, Doubles]:
        """The measures of all places, in the last axis."""
        gradients = table(Statistic.RMS)[..., self._layers].astype(np.float64)
        norms = table(Statistic.L2_NORM).astype(np.float64)
        return {
            "gain": _ratio(gradients[..., :-1], gradients[..., 1:]),
            **{stat.value: table(stat)[..., self._outputs].astype(np.float64) for stat in _FRACTIONS},
            "update_ratio": _ratio(norms[..., self._updates], norms[..., self._weights]),
        }


def step_aggregates(selection: Selection, record: StepRecord) -> dict[str, float]:
    """The numbers of one step, as it is recorded; what there is nothing to say of is left out."""
    loss = np.asarray(record.per_step.get("loss", np.nan), dtype=np.float64)
    found = selection.aggregates(lambda stat: record.values[:, COLUMN[stat]], loss)
    return {name: float(value) for name, value in found.items() if not np.isnan(value)}


def trace_aggregates(selection: Selection, trace: Trace) -> dict[str, Doubles]:
    """The same of every recorded step, each of shape (step,)."""
    return selection.aggregates(lambda stat: trace.statistics[stat], trace.per_step["loss"])


def trace_extremes(selection: Selection, trace: Trace) -> list[Extreme]:
    """The sites that stand out in a whole recording."""
    return selection.extremes(lambda stat: trace.statistics[stat])


def _learned_layers(sites: Sequence[Site]) -> list[int]:
    """One column of ∂L/∂y for each module that learns weights and ran, from the input to the output."""
    updated = (site for site in sites if site.quantity is Quantity.WEIGHT_UPDATE)
    learned = {site.module for site in updated if not scales_only(site.module_type)}
    first: dict[str, int] = {}
    for i, site in enumerate(sites):
        if site.quantity is Quantity.OUTPUT_GRAD and site.depth > 0 and site.module in learned:
            first.setdefault(site.module, i)
    return sorted(first.values(), key=lambda i: sites[i].depth)


def _ratio(above: Doubles, below: Doubles) -> Doubles:
    known = (below > 0) & np.isfinite(below)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=known)


def _smallest(values: Doubles) -> Doubles:
    return np.asarray(np.fmin.reduce(values, axis=-1, initial=np.nan))


def _largest(values: Doubles) -> Doubles:
    return np.asarray(np.fmax.reduce(values, axis=-1, initial=np.nan))


def _median(values: Doubles) -> Doubles:
    """Of what is known along the last axis; nanmedian warns where nothing is."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    ordered = np.sort(values, axis=-1)  # NaN last
    count: NDArray[np.int64] = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[-1] - 1)
    middle = (np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)) / 2
    return np.asarray(np.where(count > 0, middle, np.nan)[..., 0])

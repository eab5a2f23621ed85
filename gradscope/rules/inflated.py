"""Weights that grow between the steps, not by them: something beside the optimizer multiplies them.

A step of length ‖Δw‖ takes the norm of a weight to ‖w‖ + ‖Δw‖ at most. What the next record has beyond that, nobody's
gradient has asked for. What is given and taken in turn, as averages and projections do, adds up to nothing.

Formula:
    by others = Σ log₁₀ (‖w′‖ / (‖w‖ + n ‖Δw‖)) where that is above 0, minus Σ log₁₀ ((‖w‖ − n ‖Δw‖) / ‖w′‖) likewise,
        from each record to the next, n steps later, with the larger ‖Δw‖ of the two;
    growth = min(by others, log₁₀ (‖w‖ / ‖w‖ at the first record))
"""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity, Statistic
from gradscope.rules.layers import Layer, learned_layers, relative_scale
from gradscope.rules.learning import norms, trainable_parameters
from gradscope.trace import Doubles, Ints, Trace

_ROUNDING = 1e-3  # decades
_PART = 0.25  # decades of a layer that make it one of those that grow
_HANDED_ON = 0.5  # share of the growth that some output has to show, or it makes no difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Inflated:
    """The layers that something beside the optimizer has made larger.

    Attributes:
        layers: Which, by depth.
        growth: Decades that it has added to each since the first record; NaN where not observed. Shape (step, layer).
        output: Decades by which the rms of their outputs has grown, the largest of them. Shape (step,).
    """

    layers: tuple[Layer, ...]
    growth: Doubles
    output: Doubles

    @property
    def decades(self) -> Doubles:
        """Of all together. Shape (step,)."""
        return np.asarray(self.growth.sum(axis=1))


def inflated(trace: Trace, *, decades: float, scale: float) -> Inflated | None:
    """Those that together have grown by `decades`, an output with them, and one to `scale` or more."""
    moved = {p.weight: p for p in trainable_parameters(trace) if p.update is not None}
    outputs = {trace.sites[c].module: c for c in reversed(trace.columns(Quantity.OUTPUT))}
    layers, grown, returned, large = [], [], [], np.zeros(len(trace.steps), bool)
    for layer in learned_layers(trace):
        parameter = moved.get(layer.weight)
        if parameter is None or layer.module not in outputs:
            continue
        growth = growth_by_others(norms(trace, layer.weight), norms(trace, parameter.update), trace.steps)
        if np.nanmax(growth, initial=0.0) >= _PART:
            layers.append(layer)
            grown.append(growth)
            returned.append(_since_first(trace.statistics[Statistic.RMS][:, outputs[layer.module]].astype(np.float64)))
            large |= np.nan_to_num(relative_scale(trace, layer)) >= scale
    if not layers:
        return None
    found = Inflated(layers=tuple(layers), growth=np.stack(grown, axis=1), output=np.fmax.reduce(returned))
    with np.errstate(invalid="ignore"):
        far = (found.decades >= decades) & (found.output >= _HANDED_ON * found.decades) & large
    return found if far.any() else None


def growth_by_others(weight: Doubles, update: Doubles, steps: Ints) -> Doubles:
    """The formula above, over the steps; NaN where the weight is not known, not finite, or zero."""
    growth, usable = np.full(len(weight), np.nan), np.isfinite(weight) & (weight > 0)
    rows = np.flatnonzero(usable)
    if not len(rows):
        return growth
    norm, length = weight[rows], np.where(np.isfinite(update[rows]), update[rows], np.inf)
    reach = np.diff(steps[rows]) * np.maximum(length[:-1], length[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.log10(norm[1:] / (norm[:-1] + reach))
        down = np.log10((norm[:-1] - reach) / norm[1:])
    up, down = (np.where(change > _ROUNDING, change, 0.0) for change in (up, down))
    growth[rows] = np.minimum(np.r_[0.0, np.cumsum(up - down)], np.log10(norm / norm[0]))
    return growth


def _since_first(rms: Doubles) -> Doubles:
    """Decades since the first value that is known."""
    usable = np.isfinite(rms) & (rms > 0)
    if not usable.any():
        return np.full(len(rms), np.nan)
    return np.asarray(np.log10(np.where(usable, rms, np.nan) / rms[np.argmax(usable)]))

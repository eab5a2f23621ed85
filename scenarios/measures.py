"""The numbers that several scenarios report, each read from a trace. What cannot be measured is NaN."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.records import Quantity, Site, Statistic
from gradscope.recurrence import Recurrence, recurrences
from gradscope.trace import Doubles, Trace

Chosen: TypeAlias = Callable[[Site], bool]


def called(*prefixes: str) -> Chosen:
    """Sites of modules whose own name (the last part) begins with one of `prefixes`."""
    return lambda site: site.module.rpartition(".")[2].startswith(prefixes)


def profile(trace: Trace, quantity: Quantity, stat: Statistic, chosen: Chosen) -> Doubles:
    """`stat` of the chosen sites by depth, shape (step, depth)."""
    sites, values = trace.by_depth(quantity, stat)
    picked: Doubles = values[:, [chosen(site) for site in sites]].astype(np.float64)
    return picked


def gain_per_layer(trace: Trace, chosen: Chosen) -> Doubles:
    """The factor by which ∂L/∂y shrinks or grows per chosen layer on its way back, for each step.

    Formula: (rms at the first layer / rms at the last) ^ (1 / (layers − 1)).
    """
    rms = profile(trace, Quantity.OUTPUT_GRAD, Statistic.RMS, chosen)
    if rms.shape[1] < 2:
        return np.full(len(rms), np.nan)
    with np.errstate(all="ignore"):
        gain: Doubles = np.power(rms[:, 0] / rms[:, -1], 1 / (rms.shape[1] - 1))
        return gain


def gradient_decades(trace: Trace, chosen: Chosen) -> Doubles:
    """Factors of ten that ∂L/∂y loses from the last chosen layer to the first, for each step; below 0 it grows."""
    rms = profile(trace, Quantity.OUTPUT_GRAD, Statistic.RMS, chosen)
    if rms.shape[1] < 2:
        return np.full(len(rms), np.nan)
    with np.errstate(all="ignore"):
        return -np.log10(rms[:, 0] / rms[:, -1])


def slope(trace: Trace, chosen: Chosen) -> float:
    """The factor by which an activation changes the gradient's rms: geometric mean of the chosen modules and steps."""
    before = profile(trace, Quantity.INPUT_GRAD, Statistic.RMS, chosen)
    after = profile(trace, Quantity.OUTPUT_GRAD, Statistic.RMS, chosen)
    with np.errstate(all="ignore"):
        logs = np.log(before / after)
    return math.exp(mean(logs)) if np.isfinite(logs).any() else math.nan


def worst_share(trace: Trace, stat: Statistic) -> float:
    """A fraction (dead, saturated) of the worst module, as the median over the steps; NaN where no module has one."""
    _, values = trace.by_depth(Quantity.OUTPUT, stat)
    shares = [median(column) for column in values.T]
    return max((share for share in shares if not math.isnan(share)), default=math.nan)


def through_time(trace: Trace, module: str) -> dict[str, float]:
    """What the first layer of a recurrent module does to the gradient on its way back through time.

    "horizon": steps back until the carried gradient has fallen to a thousandth; where the sequence is too short to see
    it, continued by its gain per step. "gain": its factor per time step. "decades": what ∂L/∂h_t loses from the last
    step to the first. Each at the first step and, as the median of the last tenth, at the end; so are the gates.
    """
    layer, served = recurrence(trace, module)
    horizon, gain = layer.memory(1e-3)[served], layer.gain_per_step[served]
    arriving = layer.arriving[served]
    with np.errstate(all="ignore"):
        decades = -np.log10(arriving[:, 0] / arriving[:, -1])
    return {
        "horizon_at_start": float(horizon[0]),
        "memory_horizon": at_end(horizon),
        "gain_at_start": float(gain[0]),
        "gain_per_time_step": at_end(gain),
        "decades_at_start": float(decades[0]),
        "gradient_decades": at_end(decades),
        "forget_gate": at_end(np.nanmean(layer.forget[served], axis=1)) if layer.forget is not None else math.nan,
        "time_constant": at_end(layer.time_constant[served]) if layer.time_constant is not None else math.nan,
    }


def recurrence(trace: Trace, module: str) -> tuple[Recurrence, NDArray[np.bool_]]:
    """The first layer of a recurrent module, and which of its segments get a gradient at all.

    Of windows that no gradient reaches nothing is known.
    """
    (layer, *_) = (one for one in recurrences(trace) if one.module == module)
    return layer, np.asarray(np.isfinite(layer.arriving).any(axis=1))


def at_end(values: Doubles) -> float:
    """Median of the last tenth of the steps."""
    return median(values[-max(1, len(values) // 10) :])


def median(values: NDArray[np.floating]) -> float:
    """Median of the values that are not NaN."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan


def mean(values: NDArray[np.floating]) -> float:
    """Mean of the finite values."""
    known = values[np.isfinite(values)]
    return float(np.mean(known)) if known.size else math.nan

"""The numbers that several scenarios report, each read from a trace. What cannot be measured is NaN."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.records import Quantity, Site, Statistic
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


def over_time(trace: Trace, module: str) -> Doubles:
    """∂L/∂x for the input x of a recurrent layer: its rms relative to that of the last position. Shape (step, time)."""
    rms = trace.by_time(module, Quantity.INPUT_GRAD, Statistic.RMS).astype(np.float64)
    with np.errstate(all="ignore"):
        return rms / rms[:, -1:]


def reach(relative: Doubles, fraction: float = 1e-3) -> Doubles:
    """How many positions back from the end a gradient `over_time` stays above `fraction`, for each step."""
    backwards = relative[:, ::-1] >= fraction
    steps = np.cumprod(backwards, axis=1).sum(axis=1).astype(np.float64)
    return np.where(np.isnan(relative).all(axis=1), np.nan, steps)


def median(values: NDArray[np.floating]) -> float:
    """Median of the values that are not NaN."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan


def mean(values: NDArray[np.floating]) -> float:
    """Mean of the finite values."""
    known = values[np.isfinite(values)]
    return float(np.mean(known)) if known.size else math.nan

"""Weights kept in 16 bits, of which an update is rounded away where it is less than half of their spacing."""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Statistic
from gradscope.rules.below_range import still_learning
from gradscope.rules.learning import Parameter, norms, optimizer_of, trainable_parameters
from gradscope.rules.sixteen_bits import SMALLEST, dtype_of, full_name, spacing
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A parameter and what of its updates is lost.

    Attributes:
        parameter: Which.
        share: Of the elements that have a gradient, those that do not move; median over the steps.
        half_spacing: Half the distance of neighbouring numbers, at the rms of the weight.
    """

    parameter: Parameter
    share: float
    half_spacing: float


def kept_in_sixteen_bits(trace: Trace) -> list[Parameter]:
    """Trainable parameters of float16 or bfloat16 that an optimizer moves."""
    found = [p for p in trainable_parameters(trace) if p.update is not None and p.weight is not None and p.size > 0]
    return [p for p in found if spacing(dtype_of(trace, full_name(trace.sites[p.grad])))]


def rounded(trace: Trace, parameters: list[Parameter], min_steps: int) -> list[Rounded]:
    """What is lost of the updates of each of `parameters` that was judged in `min_steps` steps."""
    found = []
    for parameter in parameters:
        lost = _lost(trace, parameter)
        lost = lost[still_learning(trace) & ~np.isnan(lost)]
        if len(lost) < min_steps or parameter.weight is None:
            continue
        site = trace.sites[parameter.weight]
        half = (spacing(dtype_of(trace, full_name(site))) or 0.0) / 2
        rms = float(np.nanmedian(trace.statistics[Statistic.RMS][:, parameter.weight]))
        binade = 2.0 ** np.floor(np.log2(rms)) if rms > 0 else 0.0
        found.append(Rounded(parameter=parameter, share=float(np.median(lost)), half_spacing=half * binade))
    return found


def _lost(trace: Trace, parameter: Parameter) -> Doubles:
    """Share of the elements with a gradient that do not move, in each step; NaN where that is not known."""
    graded = parameter.applied if parameter.applied is not None else parameter.grad
    zeros = [
        trace.statistics[Statistic.ZERO_FRACTION][:, c].astype(np.float64)
        for c in (parameter.update, graded)
        if c is not None
    ]
    still, none = zeros if len(zeros) == 2 else (np.full(len(trace.steps), np.nan),) * 2
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (still - none) / (1 - none)
    return np.where(none < 1, np.clip(share, 0, 1), np.nan)


def divided_by_nothing(trace: Trace, parameters: list[Parameter]) -> tuple[Parameter, int] | None:
    """The first parameter whose update broke with a finite gradient because eps is zero in float16; and the row."""
    optimizer = optimizer_of(trace)
    if not optimizer.adaptive or not 0 < optimizer.eps < SMALLEST / 2:
        return None
    first: tuple[Parameter, int] | None = None
    for parameter in parameters:
        if parameter.update is None or dtype_of(trace, full_name(trace.sites[parameter.grad])) != "float16":
            continue
        broken = trace.statistics[Statistic.NONFINITE_COUNT][:, parameter.update] > 0
        sound = np.isfinite(norms(trace, parameter.grad))
        sound &= ~(trace.statistics[Statistic.NONFINITE_COUNT][:, parameter.grad] > 0)
        rows = np.flatnonzero(broken & sound)
        if len(rows) and (first is None or rows[0] < first[1]):
            first = parameter, int(rows[0])
    return first

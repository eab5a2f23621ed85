"""Whether what is not finite has left the range of float16: the numbers around its birth tell."""

from dataclasses import dataclass

import numpy as np

from gradscope.records import GRADIENT_QUANTITIES, Quantity, Statistic
from gradscope.rules.births import Birth
from gradscope.rules.layers import fan_in, learned_layers
from gradscope.rules.sixteen_bits import LARGEST, holds_half, is_half
from gradscope.trace import Trace

NEAR = LARGEST / 16  # what is finite beside an element that left the range is large as well
_TYPICAL = LARGEST / 8  # rms of an output a few of whose elements are beyond
_SQUARED = 64.0  # sixteen squares of it are beyond
_AROUND = 3  # modules that ran just before
_ALL = 0.9  # share of elements: a gradient that is so broken was not divided by zero in one place


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the range was left.

    Attributes:
        kind: What did it: "input", "weights", "scores", "gradient" or, in between two modules, "function".
        near: The largest finite number seen there, or what it was made from.
    """

    kind: str
    near: float


def left_range(trace: Trace, birth: Birth) -> Exit | None:
    """How numbers left the range of float16 at `birth`; None if it was something else."""
    if not holds_half(trace):
        return None
    site = trace.sites[birth.column]
    if site.quantity is Quantity.OUTPUT:
        return _forward(trace, birth)
    if site.quantity in GRADIENT_QUANTITIES and is_half(trace, site.module):
        return _backward(trace, birth)
    return None


def _forward(trace: Trace, birth: Birth) -> Exit | None:
    site = trace.sites[birth.column]
    earlier = _earlier(trace, birth)
    if not any(is_half(trace, trace.sites[c].module) for c in [birth.column, *earlier]):
        return None
    logit = _largest_logit(trace, birth)
    if not np.isnan(logit):
        return Exit(kind="scores", near=logit) if logit >= NEAR else None
    given = max((_abs_max(trace, c, birth.row) for c in earlier), default=0.0)
    from_input = trace.sites[earlier[-1]].quantity is Quantity.INPUT if earlier else False
    estimate = _typical_output(trace, birth, earlier)
    if from_input and (given > LARGEST or estimate > _TYPICAL) and given >= _SQUARED:
        return Exit(kind="input", near=given)
    if estimate > _TYPICAL:
        return Exit(kind="weights", near=given)
    peak = _peak(trace, birth)
    if is_half(trace, site.module) and peak >= NEAR:
        return Exit(kind="weights" if not np.isnan(estimate) else "function", near=peak)
    return Exit(kind="function", near=given) if given >= _SQUARED else None


def _backward(trace: Trace, birth: Birth) -> Exit | None:
    peak = _peak(trace, birth)
    if peak >= NEAR:
        return Exit(kind="gradient", near=peak)
    broken = trace.statistics[Statistic.NONFINITE_COUNT][birth.row, birth.column]
    share = broken / trace.statistics[Statistic.NUMEL][birth.row, birth.column]
    return Exit(kind="gradient", near=peak) if share >= _ALL else None


def _earlier(trace: Trace, birth: Birth) -> list[int]:
    """The outputs that were there just before the one at which it was born, and what the model was given, if first."""
    outputs = trace.columns(Quantity.OUTPUT)
    ran = [c for c in outputs if trace.sites[c].depth < trace.sites[birth.column].depth]
    inputs = trace.columns(Quantity.INPUT, "") if len(ran) < _AROUND else []
    return [*ran[-_AROUND:], *(c for c in inputs if not ran)]


def _peak(trace: Trace, birth: Birth) -> float:
    """The largest finite number at the site up to the step of the birth, as large as it was in float16."""
    scale = np.nan_to_num(trace.per_step["loss_scale"], nan=1.0)
    graded = trace.sites[birth.column].quantity in GRADIENT_QUANTITIES
    values = trace.statistics[Statistic.ABS_MAX][: birth.row + 1, birth.column]
    values = values * (scale[: birth.row + 1] if graded else 1.0)
    return float(values[np.isfinite(values)].max(initial=0.0))


def _largest_logit(trace: Trace, birth: Birth) -> float:
    """The largest logit of attention in the step, at the module itself; NaN where it is none."""
    columns = trace.columns(Quantity.OUTPUT, trace.sites[birth.column].module)
    found = trace.statistics[Statistic.MAX_LOGIT][birth.row, columns]
    return float(np.nanmax(found)) if not np.isnan(found).all() else float("nan")


def _typical_output(trace: Trace, birth: Birth, earlier: list[int]) -> float:
    """The rms that a layer's output would have in float32: of its input × of its weight × √fan_in; NaN for others."""
    module = trace.sites[birth.column].module
    layer = next((one for one in learned_layers(trace) if one.module == module), None)
    if layer is None or not earlier:
        return float("nan")
    rms = trace.statistics[Statistic.RMS][birth.row]
    return float(rms[earlier[-1]] * rms[layer.weight] * np.sqrt(fan_in(trace, layer)))


def _abs_max(trace: Trace, column: int, row: int) -> float:
    found = float(trace.statistics[Statistic.ABS_MAX][row, column])
    return found if np.isfinite(found) else 0.0

"""Units: which of an activation are dead, which elements saturated, and which rows of a weight are one and the same.

These are the statistics that a tensor alone cannot tell: what counts as dead or saturated depends on the activation
that made it, and dead on the steps before.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gradscope.idle import IdleUnits
from gradscope.processes import local

SLOPE = 0.05  # an element is saturated where its activation's slope is below this share of the largest
_SILENT = 1e-6  # −y of a smooth rectifier far below zero, where its slope is under 1e-5 too

Predicate: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Activation:
    """What the output of an activation function tells.

    Attributes:
        silent: A unit whose output is never above zero, nor further below it than this, is dead; None: cannot be told.
        saturated: y → bool, where the slope is below `SLOPE` of its largest; None where the function is not bounded.
    """

    silent: float | None = None
    saturated: Predicate | None = None


@dataclass(frozen=True, slots=True)
class ActivationFunction:
    """An activation function of torch, in all the ways of calling it.

    Attributes:
        module: Its class in torch.nn.
        functions: What does the same to a tensor.
        of: What its output tells, given `arguments`; None where nothing is told.
        arguments: What decides that, with defaults: attributes of the module, and what the functions take after the
            input, in this order.
    """

    module: type[nn.Module]
    functions: tuple[Callable[..., object], ...]
    of: Callable[..., Activation] | None = None
    arguments: tuple[tuple[str, float], ...] = ()

    def of_module(self, module: nn.Module) -> Activation | None:
        """What the output of `module` tells."""
        return None if self.of is None else self.of(*(float(getattr(module, name)) for name, _ in self.arguments))

    def of_call(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Activation | None:
        """What the output of a function tells that was called with `args`, the input first, and `kwargs`."""
        if self.of is None:
            return None
        given = dict(zip((name for name, _ in self.arguments), args[1:], strict=False))
        return self.of(*(float(given.get(name, kwargs.get(name, by))) for name, by in self.arguments))  # type: ignore[arg-type]


def activation_of(module: nn.Module) -> Activation | None:
    """What is known of `module` as an activation function, by its class or a base of it; None if nothing is."""
    for cls in type(module).__mro__:
        if cls in _BY_MODULE:
            return _BY_MODULE[cls].of_module(module)
    return _BY_NAME.get(type(module).__name__)


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is an activation function, so that what it calls is no function by itself."""
    return type(module).__name__ in _BY_NAME or any(cls in _BY_MODULE for cls in type(module).__mro__)


# Where the slope, as a function of the output y, is below SLOPE of its largest:
#   sigmoid y(1 − y), at most 1/4;  tanh 1 − y²;  softsign (1 − |y|)²;  ELU y + α below zero, 1 above
# Equal activations share one predicate, so that their outputs can be judged together.
@cache
def _outside(low: float, high: float) -> Predicate:
    def saturated(y: Tensor) -> Tensor:
        return (y <= low) | (y >= high)

    return saturated


_ROOM = (1 - SLOPE) ** 0.5
_SIGMOID = _outside((1 - _ROOM) / 2, (1 + _ROOM) / 2)
_TANH = _outside(-_ROOM, _ROOM)
_SOFTSIGN = _outside(SLOPE**0.5 - 1, 1 - SLOPE**0.5)
_SELU_SCALE, _SELU_FLOOR = 1.0507009873554805, 1.7580993408473766  # λ and λα of Klambauer et al. 2017

_RECTIFIER, _SMOOTH_RECTIFIER = Activation(silent=0.0), Activation(silent=_SILENT)


def _rectifier() -> Activation:
    return _RECTIFIER


def _smooth_rectifier() -> Activation:
    return _SMOOTH_RECTIFIER


def _stuck_at(predicate: Predicate) -> Callable[[], Activation]:
    activation = Activation(saturated=predicate)
    return lambda: activation


ACTIVATION_FUNCTIONS: tuple[ActivationFunction, ...] = (
    ActivationFunction(nn.ReLU, (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _rectifier),
    ActivationFunction(
        nn.Threshold,
        (F.threshold, torch.threshold, torch.threshold_),
        lambda threshold, value: _RECTIFIER if threshold >= 0 and value == 0 else Activation(),
        (("threshold", 0.0), ("value", 0.0)),
    ),
    ActivationFunction(nn.ReLU6, (F.relu6,), lambda: Activation(silent=0.0, saturated=_outside(-math.inf, 6.0))),
    ActivationFunction(nn.GELU, (F.gelu,), _smooth_rectifier),
    ActivationFunction(nn.SiLU, (F.silu, torch._C._nn.silu), _smooth_rectifier),
    ActivationFunction(nn.Mish, (F.mish, torch._C._nn.mish), _smooth_rectifier),
    ActivationFunction(nn.Hardswish, (F.hardswish, torch._C._nn.hardswish), _smooth_rectifier),
    ActivationFunction(nn.Hardshrink, (F.hardshrink, Tensor.hardshrink), _smooth_rectifier),
    ActivationFunction(nn.Softshrink, (F.softshrink,), _smooth_rectifier),
    ActivationFunction(
        nn.Sigmoid,
        (torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit),
        _stuck_at(_SIGMOID),
    ),
    ActivationFunction(nn.Tanh, (torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_), _stuck_at(_TANH)),
    ActivationFunction(nn.Softsign, (F.softsign,), _stuck_at(_SOFTSIGN)),
    ActivationFunction(nn.Hardsigmoid, (F.hardsigmoid,), _stuck_at(_outside(0.0, 1.0))),
    ActivationFunction(
        nn.Hardtanh,
        (F.hardtanh, F.hardtanh_),
        lambda low, high: Activation(saturated=_outside(low, high)),
        (("min_val", -1.0), ("max_val", 1.0)),
    ),
    ActivationFunction(
        nn.ELU,
        (F.elu, F.elu_),
        lambda alpha: Activation(saturated=_outside(SLOPE - alpha, math.inf)),
        (("alpha", 1.0),),
    ),
    ActivationFunction(
        nn.CELU,
        (F.celu, torch.celu, torch.celu_),
        lambda alpha: Activation(saturated=_outside((SLOPE - 1) * alpha, math.inf)),
        (("alpha", 1.0),),
    ),
    ActivationFunction(
        nn.SELU,
        (F.selu, torch.selu, torch.selu_),
        _stuck_at(_outside(SLOPE * _SELU_SCALE - _SELU_FLOOR, math.inf)),
    ),
    ActivationFunction(nn.LeakyReLU, (F.leaky_relu, F.leaky_relu_)),
    ActivationFunction(nn.PReLU, (F.prelu, Tensor.prelu)),
    ActivationFunction(nn.RReLU, (F.rrelu, torch.rrelu, torch.rrelu_)),
    ActivationFunction(nn.Softplus, (F.softplus,)),
    ActivationFunction(nn.LogSigmoid, (F.logsigmoid,)),
    ActivationFunction(nn.Tanhshrink, (F.tanhshrink,)),
)
_BY_MODULE = {known.module: known for known in ACTIVATION_FUNCTIONS}
# modules of transformers, by class; they stand in gradscope.rules.activations too
_NAMES = "GELU NewGELU FastGELU QuickGELU AccurateGELU ClippedGELU SiLU Mish"
_BY_NAME: dict[str, Activation] = {
    "GELUTanh": _SMOOTH_RECTIFIER,
    "ReLUSquaredActivation": _RECTIFIER,
    **{f"{name}Activation": _SMOOTH_RECTIFIER for name in _NAMES.split()},
}


def unit_axis(y: Tensor, features_last: bool) -> int:
    """The axis that counts units: channels or features; `features_last` as the layer before says."""
    if y.ndim <= 2 or features_last:
        return y.ndim - 1
    return 1


def features_last(module: nn.Module) -> bool | None:
    """Whether `module` puts its features on the last axis (Linear) or on axis 1 (Conv); None: it does not decide."""
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding | nn.RNNBase | nn.MultiheadAttention | nn.Bilinear):
        return True
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return False
    return None


class Liveness:
    """Which units of which activations have been silent in the running step, and for how many before.

    Attributes:
        features_last: Where the layer that ran last put its features: activations do not decide that themselves.
        layer: Which layer that was.
    """

    def __init__(self) -> None:
        self.features_last = True
        self.layer: str | int = ""
        self._peaks: dict[int, Tensor] = {}
        self._silent: dict[int, float] = {}
        self._idle = IdleUnits()
        self._ended: tuple[list[tuple[int, int]], NDArray[np.bool_]] = [], np.zeros(0, dtype=bool)

    def see(self, site: int, y: Tensor, axis: int, silent: float) -> None:
        """Takes in an output whose units are counted by `axis`; several of one site and step count as one."""
        y = local(y)
        if not y.numel() or not y.ndim or y.layout is not torch.strided:
            return  # without elements, axes or one shape there are no units to tell apart
        if silent:  # a ReLU's output is not negative; of a smooth rectifier only what lies below zero can be dead
            y = torch.where(y > 0, torch.inf, -y)
        # one axis at a time: torch reduces several at once three times slower
        peak = y.flatten(axis + 1).amax(axis + 1) if axis + 1 < y.ndim else y
        peak = peak.flatten(0, axis - 1).amax(0) if axis else peak
        before = self._peaks.get(site)
        self._peaks[site] = torch.maximum(before, peak) if before is not None and before.shape == peak.shape else peak
        self._silent[site] = silent

    def end_step(self) -> dict[int, float]:
        """The dead fraction of each site that was seen in this step."""
        layout = [(site, len(peak)) for site, peak in self._peaks.items()]
        silent = np.zeros(0, dtype=bool)
        if layout:
            limits = np.repeat([self._silent[site] for site in self._peaks], [size for _, size in layout])
            silent = _gather(list(self._peaks.values())) <= limits  # NaN is not silent
        self._peaks = {}
        self._ended = layout, silent
        return self._idle.count(layout, silent)

    def silent(self) -> list[tuple[int, NDArray[np.bool_]]]:
        """Of the step that ended last each site, and for each of its units whether it was silent."""
        layout, silent = self._ended
        ends = np.cumsum([size for _, size in layout])
        return [(site, silent[end - size : end]) for (site, size), end in zip(layout, ends, strict=True)]

    def forget_step(self) -> None:
        """The running step is not recorded after all."""
        self._peaks = {}


def _gather(parts: list[Tensor]) -> NDArray[np.float64]:
    """All parts end to end, in float64, with one wait for each device."""
    sizes = [len(part) for part in parts]
    result: list[NDArray[np.float64]] = [np.zeros(0)] * len(parts)
    for device in {part.device for part in parts}:
        here = [i for i, part in enumerate(parts) if part.device == device]
        joined = torch.cat([parts[i].double() for i in here]).cpu().numpy()
        ends = np.cumsum([sizes[i] for i in here])
        for i, values in zip(here, np.split(joined, ends[:-1]), strict=True):
            result[i] = values
    return np.concatenate(result)

"""Units: which of an activation are dead, which elements saturated, and which rows of a weight are one and the same.

These are the statistics that a tensor alone cannot tell: what counts as dead or saturated depends on the activation that
made it, and dead on the steps before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

WINDOW = 8  # recorded steps without any activation after which a unit counts as dead
SLOPE = 0.05  # an element is saturated where its activation's slope is below this share of the largest
_SILENT = 1e-6  # |y| of a smooth rectifier below which its slope is under 1e-5 too
_ROWS_EQUAL = 1e-5  # relative; rows that start equal drift apart only by rounding
_PROBES = 4  # random directions; two different rows agree along all of them by chance once in 10¹⁷

Predicate: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Activation:
    """What the output of an activation function tells.

    Attributes:
        silent: A unit whose |y| never exceeds this in any sample is dead; None where no output means dead.
        saturated: y → bool, where the slope is below `SLOPE` of its largest; None where the function is not bounded.
    """

    silent: float | None = None
    saturated: Predicate | None = None


def activation_of(module: nn.Module) -> Activation | None:
    """What is known of `module` as an activation function, by its class or a base of it; None if nothing is."""
    for cls in type(module).__mro__:
        if cls in _ACTIVATIONS:
            return _ACTIVATIONS[cls](module)
    return None


# The slopes as functions of the output y:
#   sigmoid y(1 − y), at most 1/4;  tanh 1 − y²;  softsign (1 − |y|)²;  ELU y + α below zero
_ACTIVATIONS: dict[type, Callable[[nn.Module], Activation]] = {
    nn.ReLU: lambda m: Activation(silent=0.0),
    nn.ReLU6: lambda m: Activation(silent=0.0, saturated=lambda y: y >= 6),
    nn.GELU: lambda m: Activation(silent=_SILENT),
    nn.SiLU: lambda m: Activation(silent=_SILENT),
    nn.Mish: lambda m: Activation(silent=_SILENT),
    nn.Hardswish: lambda m: Activation(silent=_SILENT),
    nn.Hardshrink: lambda m: Activation(silent=_SILENT),
    nn.Softshrink: lambda m: Activation(silent=_SILENT),
    nn.Sigmoid: lambda m: Activation(saturated=lambda y: 4 * y * (1 - y) < SLOPE),
    nn.Tanh: lambda m: Activation(saturated=lambda y: 1 - y * y < SLOPE),
    nn.Softsign: lambda m: Activation(saturated=lambda y: (1 - y.abs()).square() < SLOPE),
    nn.Hardsigmoid: lambda m: Activation(saturated=lambda y: (y <= 0) | (y >= 1)),
    nn.Hardtanh: lambda m: Activation(saturated=lambda y: (y <= m.min_val) | (y >= m.max_val)),
    nn.ELU: lambda m: Activation(saturated=lambda y: y < (SLOPE - 1) * m.alpha),
    nn.CELU: lambda m: Activation(saturated=lambda y: y < (SLOPE - 1) * m.alpha),
    nn.SELU: lambda m: Activation(saturated=lambda y: y < (SLOPE - 1) * 1.7580993),  # λα, the floor of SELU
}


def unit_axis(y: Tensor, features_last: bool) -> int:
    """The axis that counts units: channels of an image, features of a sample. `features_last` as the layer before says."""
    if y.ndim <= 2 or features_last:
        return y.ndim - 1
    return 1


def features_last(module: nn.Module) -> bool | None:
    """Whether `module` puts its features on the last axis (Linear) or on axis 1 (Conv); None where it does not decide."""
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding | nn.RNNBase | nn.MultiheadAttention | nn.Bilinear):
        return True
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm):
        return False
    return None


class Liveness:
    """For how many recorded steps each unit of one activation has been silent."""

    def __init__(self, silent: float) -> None:
        self._silent = silent
        self._signed = silent > 0  # a ReLU's output needs no abs: one pass over it less
        self._idle: Tensor | None = None
        self._peak: Tensor | None = None
        self._steps = 0

    def see(self, y: Tensor, axis: int) -> None:
        """Takes in an output; several of one step count as one."""
        others = [a for a in range(y.ndim) if a != axis]
        if not y.numel():
            return
        y = y.abs() if self._signed else y
        peak = y.amax(others) if others else y
        fits = self._peak is not None and self._peak.shape == peak.shape
        self._peak = torch.maximum(self._peak, peak) if fits and self._peak is not None else peak

    def end_step(self) -> Tensor | None:
        """Dead fraction after this step, 0-dim on the activation's device; None if nothing was seen in it."""
        if self._peak is None:
            return None
        silent = self._peak <= self._silent  # NaN is not silent
        if self._idle is None or self._idle.shape != silent.shape:
            self._idle, self._steps = torch.zeros_like(silent, dtype=torch.int32), 0
        self._idle = (self._idle + 1) * silent
        self._steps += 1
        self._peak = None
        return (self._idle >= min(self._steps, WINDOW)).double().mean()


def symmetric_fraction(weight: Tensor) -> Tensor:
    """Share of the rows of `weight` (units; dimension 0) that equal another row, 0-dim on its device.

    Rows are compared by their projections on four fixed random directions, so a layer of any width is sorted, not
    compared pair by pair.
    """
    rows = weight.detach().flatten(1)
    rows = rows.abs() if rows.is_complex() else rows
    rows = rows.float() if rows.dtype not in (torch.float32, torch.float64) else rows
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(rows.shape[1], _PROBES, generator=generator, dtype=rows.dtype).to(rows.device)
    shadow = rows @ directions
    shadow = shadow[shadow[:, 0].argsort()]
    tolerance = _ROWS_EQUAL * torch.linalg.vector_norm(rows, dim=1).mean()
    equal = ((shadow[1:] - shadow[:-1]).abs() <= tolerance).all(1)
    edge = equal.new_zeros(1)
    return (torch.cat([equal, edge]) | torch.cat([edge, equal])).double().mean()

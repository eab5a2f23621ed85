"""Calls that are a ReLU by another name: `x.clamp(min=0)`, `torch.maximum(x, zeros)`.

They are told by what they are called with: clamping at another value, or at both ends, is something else.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_CLAMPS: tuple[Callable[..., object], ...] = (
    torch.clamp, torch.clamp_, torch.clip, torch.clip_, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_,
)  # fmt: skip
_CLAMPS_BELOW: tuple[Callable[..., object], ...] = (
    torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_,
)  # fmt: skip
_MAXIMA: tuple[Callable[..., object], ...] = (
    torch.maximum, torch.fmax, torch.max, Tensor.maximum, Tensor.fmax, Tensor.max,
)  # fmt: skip

RECTIFYING: dict[Callable[..., object], str] = {
    **dict.fromkeys(_CLAMPS + _CLAMPS_BELOW, "clamp"),
    **dict.fromkeys(_MAXIMA, "maximum"),
}


def rectifies(function: str, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    """Whether the call of `function`, one of the values of `RECTIFYING`, gives max(x, 0)."""
    if function == "clamp":
        low = args[1] if len(args) > 1 else kwargs.get("min")
        high = args[2] if len(args) > 2 else kwargs.get("max")
        return high is None and _is_zero(low)
    given = [*args, *(kwargs[name] for name in ("input", "other") if name in kwargs)]
    return len(given) == 2 and all(isinstance(x, Tensor) for x in given) and any(_is_zero(x) for x in given)


def _is_zero(value: object) -> bool:
    """Zero itself, or a tensor of nothing else; of one on another device that would be a wait to know."""
    if isinstance(value, Tensor):
        known = value.device.type == "cpu" and value.layout is torch.strided and not value.requires_grad
        return known and not value.any()
    return isinstance(value, int | float) and value == 0

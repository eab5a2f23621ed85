"""The AMP gradient scaler of a training whose author has not named it to `attach`: it is found where it acts.

Without it gradients would be recorded as large as the scaled loss has made them, and a step that the scaler skips could
not be told from a micro-batch.
"""

import gc
import sys
from types import FrameType

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

_FILE = torch.amp.grad_scaler.__file__
_DEEPEST = 16  # calls between a scaler's `step` and a hook of the optimizer, wrappers and all


def scaler_that_steps() -> GradScaler | None:
    """The scaler that is stepping an optimizer, seen from a hook of that optimizer; None if none is, or it is off."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEPEST):
        if frame is None:
            return None
        if frame.f_code.co_filename == _FILE:
            found = frame.f_locals.get("self")
            return found if isinstance(found, GradScaler) and found.is_enabled() else None
        frame = frame.f_back
    return None


def only_scaler() -> GradScaler | None:
    """The one scaler of the process that is switched on; None where there are several, or none."""
    # by type(), as isinstance would run the code of objects that pretend to be others
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), GradScaler) and thing.is_enabled()]
    return found[0] if len(found) == 1 else None


def first_scale(scaler: GradScaler) -> float:
    """The scale with which `scaler` began."""
    return float(scaler._init_scale)


def times_set(scaler: object) -> int | None:
    """How often the scale has been set so far; None where that cannot be told.

    `get_scale` waits for the device, so a micro-batch that asked for it could not be queued behind the one before.
    """
    if not isinstance(scaler, GradScaler) or not scaler.is_enabled():
        return None
    scale = scaler._get_scale_async()
    return scale._version if isinstance(scale, Tensor) else None

"""What earlier steps have left in `.grad`: whether a backward adds to it, and how much of the sum it is.

    the step begins         what lies in `.grad`, and its version, are noted
    zero_grad()             drops the tensor, or raises its version
    a gradient arrives      the very tensor, one version on: nobody has cleared it, it was carried over

`zero_grad` may be called before the forward, after it or after the backward of the step before: only the arrival tells.
What lies there since the last update of the weights is no leftover: micro-batches are added up on purpose.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.probes.base import Recorder
from gradscope.records import Statistic

_LOOKS = 3  # steps in which the norm is taken after one that carried something over; it costs a pass over the gradient


class Leftover:
    """What is left in the gradient of one parameter, whose site is `site`."""

    __slots__ = ("_arrived", "_at", "_found", "_looks", "_norm", "_old", "_share", "_version", "site")

    def __init__(self, site: int) -> None:
        self.site = site
        self._looks = _LOOKS
        self._at = -1  # step of the last arrival
        self._version = -1  # of the parameter, then
        # identity of what lies in .grad and may be a leftover; no weak reference, with which torch would not swap it
        self._found: int | None = None
        self._old = 0  # its version
        self._norm: Tensor | None = None
        self._arrived = False
        self._share: Tensor | float | None = 0.0

    def begin(self, parameter: Tensor, step: int, *, steps_are_updates: bool) -> None:
        """A recorded step begins."""
        grad = parameter.grad
        self._arrived, self._share = False, 0.0
        self._found = self._norm = None
        if grad is None or type(grad) is not Tensor or grad.layout is not torch.strided or self._at < 0:
            return
        if self._at == step or not (steps_are_updates or parameter._version != self._version):
            return  # of a micro-batch
        self._found, self._old = id(grad), grad._version
        if self._looks:
            self._looks -= 1
            self._norm = _norm(grad)

    def arrive(self, parameter: Tensor) -> None:
        """A backward of a recorded step has added to the gradient."""
        grad = parameter.grad
        self._arrived = True
        if self._found is None or grad is None:
            return
        if self._found != id(grad) or grad._version != self._old + 1:
            self._found, self._share = None, 0.0
            return
        self._old += 1
        self._looks = _LOOKS
        # without a norm nothing can be said of this step, and something of the next
        self._share = None if self._norm is None else self._norm / _norm(grad).clamp_min(_TINY)

    def leave(self, parameter: Tensor, step: int) -> None:
        """A backward is over for the parameter, in a step that may not be recorded."""
        self._at, self._version = step, parameter._version

    def end(self, derive: Callable[[int, Statistic, Tensor | float], None]) -> None:
        """The recorded step ends."""
        if self._arrived and self._share is not None:
            derive(self.site, Statistic.CARRIED_FRACTION, self._share)
        self._found = None


class Leftovers:
    """Those of all parameters.

    Attributes:
        steps_are_updates: A step ends with an update; without an optimizer it ends with any backward.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._of: dict[int, tuple[Leftover, Tensor]] = {}
        self.steps_are_updates = False

    def of(self, site: int, parameter: Tensor) -> Leftover:
        """A new one, for a parameter that gets its hook."""
        leftover = Leftover(site)
        self._of[site] = leftover, parameter
        return leftover

    @torch.no_grad()
    def begin(self) -> None:
        """A recorded step begins."""
        step, updates = self._recorder.step, self.steps_are_updates or self._recorder.explicit
        for leftover, parameter in self._of.values():
            leftover.begin(parameter, step, steps_are_updates=updates)

    def end(self) -> None:
        """It ends."""
        for leftover, _ in self._of.values():
            leftover.end(self._recorder.derive)


_TINY = 1e-38  # of two norms that are zero the share is zero


def _norm(grad: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(grad.detach(), dtype=torch.promote_types(grad.dtype, torch.float32))
    return norm

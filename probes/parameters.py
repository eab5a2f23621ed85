"""The parameters: weights, their gradients as backward left them and as the optimizer applied them, and the updates."""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from gradscope.probes.base import Hook, Probe, Recorder, Target, owner_and_name
from gradscope.records import Quantity, Statistic
from gradscope.units import symmetric_fraction

_SYMMETRY_EVERY = 16  # records between two looks at whether a weight's rows are equal


class Parameters(Probe):
    """w, ∂L/∂w and Δw of every parameter.

    Raw gradients are read when backward has accumulated them. Applied ones are read after the optimizer has stepped: by
    then they are reduced, unscaled and clipped, and under a closure they are not those of the step before. A clip between
    backward and step shows as a difference of the two. Without an optimizer Δw is what changed between two steps.
    """

    name = "parameters"
    quantities = frozenset(
        {Quantity.WEIGHT, Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD, Quantity.WEIGHT_UPDATE, Quantity.TOTAL_NORM}
    )

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a hook on each trainable parameter and two on each optimizer."""
        handles = ExitStack()
        names = {id(parameter): name for name, parameter in target.parameters.items()}
        for name, parameter in target.parameters.items():
            recorder.site(*_site(name, Quantity.WEIGHT))
            if parameter.requires_grad:
                site = recorder.site(*_site(name, Quantity.WEIGHT_GRAD))
                hook = _RawGradientHook(recorder, site)
                handles.callback(parameter.register_post_accumulate_grad_hook(hook).remove)
        stepped: set[int] = set()
        for optimizer in target.optimizers:
            group = [p for g in optimizer.param_groups for p in g["params"] if id(p) in names and p.requires_grad]
            weights = _Weights(recorder, [names[id(p)] for p in group], group, applied=True)
            handles.callback(optimizer.register_step_pre_hook(_BeforeUpdate(recorder, weights)).remove)
            handles.callback(optimizer.register_step_post_hook(_AfterUpdate(recorder, weights)).remove)
            stepped |= {id(p) for p in group}
        rest = {name: p for name, p in target.parameters.items() if id(p) not in stepped}
        moving = {} if target.optimizers else {name: p for name, p in rest.items() if p.requires_grad}
        still = {name: p for name, p in rest.items() if name not in moving}
        recorder.on_step(_ByHand(recorder, moving, still))
        return handles


def _site(parameter: str, quantity: Quantity) -> tuple[str, Quantity, str]:
    owner, name = owner_and_name(parameter)
    return owner, quantity, name


class _RawGradientHook(Hook):
    __slots__ = ("site",)

    def __init__(self, recorder: Recorder, site: int) -> None:
        super().__init__(Parameters.name, recorder)
        self.site = site

    def __call__(self, parameter: Tensor) -> None:
        recorder = self.recorder
        if not recorder.backward_ran:
            recorder.note_backward()
        if not recorder.on:
            return
        try:
            if parameter.grad is not None:
                recorder.emit(self.site, parameter.grad)
        except Exception as error:
            recorder.failed(self.probe, error)


class _Weights:
    """Some parameters that change together: emits what they are, and after a step what has become of them."""

    def __init__(
        self, recorder: Recorder, names: Sequence[str], weights: Sequence[nn.Parameter], *, applied: bool
    ) -> None:
        self._recorder = recorder
        self._weights = list(weights)
        self._weight_sites = [recorder.site(*_site(name, Quantity.WEIGHT)) for name in names]
        self._update_sites = [recorder.site(*_site(name, Quantity.WEIGHT_UPDATE)) for name in names]
        self._applied_sites = [recorder.site(*_site(n, Quantity.APPLIED_GRAD)) for n in names] if applied else []
        self._matrices = [i for i, w in enumerate(weights) if w.ndim >= 2 and len(w) >= 2]
        self._before: list[Tensor] = []
        self._records = 0

    @torch.no_grad()
    def before(self) -> None:
        """Emits the weights and keeps a copy, until `after`."""
        recorder = self._recorder
        recorder.emit_many(self._weight_sites, self._weights)
        if self._records % _SYMMETRY_EVERY == 0:
            for i in self._matrices:
                recorder.derive(
                    self._weight_sites[i], Statistic.SYMMETRIC_FRACTION, symmetric_fraction(self._weights[i])
                )
        self._records += 1
        self._before = [torch.empty_like(w) for w in self._weights]
        if self._weights:
            torch._foreach_copy_(self._before, self._weights)

    @torch.no_grad()
    def after(self) -> None:
        """Emits the gradients as they were applied, and the change since `before`."""
        recorder = self._recorder
        if self._applied_sites:
            given = [(s, w.grad) for s, w in zip(self._applied_sites, self._weights, strict=True) if w.grad is not None]
            recorder.emit_many([site for site, _ in given], [grad for _, grad in given])
        if len(self._before) == len(self._weights) > 0:  # else the step began before the recording did
            changes = [torch.sub(w, old, out=old) for w, old in zip(self._weights, self._before, strict=True)]
            recorder.emit_many(self._update_sites, changes)
        self._before = []


class _BeforeUpdate(Hook):
    __slots__ = ("weights",)

    def __init__(self, recorder: Recorder, weights: _Weights) -> None:
        super().__init__(Parameters.name, recorder)
        self.weights = weights

    def __call__(self, optimizer: object, args: object, kwargs: object) -> None:
        if not self.recorder.on:
            return
        try:
            self.weights.before()
        except Exception as error:
            self.recorder.failed(self.probe, error)


class _AfterUpdate(Hook):
    __slots__ = ("weights",)

    def __init__(self, recorder: Recorder, weights: _Weights) -> None:
        super().__init__(Parameters.name, recorder)
        self.weights = weights

    def __call__(self, optimizer: object, args: object, kwargs: object) -> None:
        if not self.recorder.on:
            return
        try:
            self.weights.after()
        except Exception as error:
            self.recorder.failed(self.probe, error)


class _ByHand:
    """Parameters that no optimizer moves: frozen ones, and all of them in a loop that updates by hand."""

    def __init__(self, recorder: Recorder, moving: dict[str, nn.Parameter], still: dict[str, nn.Parameter]) -> None:
        self._recorder = recorder
        self._moving = _Weights(recorder, list(moving), list(moving.values()), applied=False)
        self._still = list(still.values())
        self._still_sites = [recorder.site(*_site(name, Quantity.WEIGHT)) for name in still]

    def begin(self) -> None:
        """The step begins: emits the weights that it will use."""
        self._moving.before()
        self._recorder.emit_many(self._still_sites, self._still)

    def end(self) -> None:
        """The step ends: emits what has changed."""
        self._moving.after()

"""What a probe is, and what it may ask of the recorder.

A probe sees tensors and emits them at a site; it computes, stores and judges nothing. One step of a training, as its
hooks see it:

    forward pre-hook    Gradients: a tensor hook on what the module was given
    forward hook        Activations: emit the output; Gradients: a tensor hook on it
    tensor hook         Gradients: emit ∂L/∂y
    post-accumulate     Parameters: emit ∂L/∂w as backward left it
    optimizer pre-hook  Parameters: emit w, keep a copy
    optimizer post-hook Parameters: emit ∂L/∂w as it was applied, and Δw

A hook returns None, so nothing it does can change the training, and it is wrapped (`Hook`) so that it can neither raise
into it nor travel with a copy of the model.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from gradscope.records import Quantity, Statistic
from gradscope.units import Liveness, Predicate


class StepListener(Protocol):
    """Something that acts at the edges of a recorded step."""

    def begin(self) -> None:
        """The first forward of the step is about to run."""
        ...

    def end(self) -> None:
        """The step is over."""
        ...


class Recorder(Protocol):
    """What a probe sees of the running recorder.

    Attributes:
        on: Whether this step is recorded. Hooks look at it first and do nothing else when it is False.
        step: Number of the running step.
        boundary: An optimizer has stepped (or, without one, a backward has run): the next forward begins a new step.
        forward: Number of the running forward pass of the whole model within the step.
        backward_ran: A gradient has arrived in this step.
        explicit: The user ends the steps.
        training_tasks: Backward passes, by autograd's number, that have added to a parameter's gradient in this step.
        liveness: Takes in the outputs of activation functions that can die.
    """

    on: bool
    step: int
    boundary: bool
    forward: int
    backward_ran: bool
    explicit: bool
    training_tasks: set[int]
    liveness: Liveness

    def site(self, module: str, quantity: Quantity, name: str = "") -> int:
        """Index of a site; registers it when it is new."""
        ...

    def completed(self, module: str) -> None:
        """`module` has run for the first time: it gets the next depth."""
        ...

    def advance(self) -> None:
        """Ends the step at whose boundary we are, and begins the next."""
        ...

    def emit(self, site: int, tensor: Tensor, time: int = 0, saturated: Predicate | None = None) -> None:
        """Reduces `tensor` to its statistics now: what happens to it later does not matter.

        With `saturated`, the share of its elements for which that is true is its saturated fraction.
        """
        ...

    def emit_slices(self, site: int, tensor: Tensor, axis: int, time: int = 0, *, mark: int | None = None) -> None:
        """Like `emit` for every position along `axis`, at times from `time` on; of the pass `mark`, if not of this."""
        ...

    def mark_backward(self, step: int, forward: int) -> int | None:
        """Called in a tensor hook: a mark for `emit_slices` of what the running backward passes on to `forward`.

        None where nothing is recorded.
        """
        ...

    def emit_many(self, sites: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Like `emit` for each pair, faster for many small tensors."""
        ...

    def emit_gradient(
        self, step: int, forward: int, site: int, time: int, axis: int | None, grad: Tensor | None
    ) -> None:
        """Like `emit`, or `emit_slices` along `axis`, for a gradient of what pass `forward` of `step` computed."""
        ...

    def emit_gradient_of(self, site: int, grad: Tensor) -> None:
        """Like `emit`, for a parameter's gradient as a backward has left it: of several the last one counts."""
        ...

    def same(self, site: int, time: int, source: int, source_time: int) -> None:
        """`site` at `time` has the very tensor that `source` has at `source_time`: its statistics are copied."""
        ...

    def derive(self, site: int, stat: Statistic, value: Tensor | float) -> None:
        """Adds one number, as a tensor 0-dim, that does not follow from a tensor's moments."""
        ...

    def on_step(self, listener: StepListener, probe: str) -> None:
        """`listener`, of a probe, is told when a recorded step begins and ends."""
        ...

    def tell(self, kind: str, module: str, message: str) -> None:
        """Puts an event into the trace, about something that the user should know of the recording."""
        ...

    def failed(self, probe: str, error: Exception) -> None:
        """A hook of `probe` raised: it is reported once and the probe falls silent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What probes attach to.

    Attributes:
        model: The attached model.
        modules: Observed modules by name: leaves, and what the user named.
        parameters: All parameters by full name, each once.
        optimizers: Those that the user attached.
        time_axes: The axis of the sequence in what a module takes and returns, where the user has named it.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
    optimizers: tuple[torch.optim.Optimizer, ...]
    time_axes: Mapping[str, int] = field(default_factory=dict)


class Probe(ABC):
    """Something that sees tensors.

    Attributes:
        name: Shown in `gradscope list probes`.
        quantities: What it emits.
    """

    name: ClassVar[str]
    quantities: ClassVar[frozenset[Quantity]]

    @abstractmethod
    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places the hooks; closing the stack removes every one of them."""


# A hook that was removed while torch goes through a module's hooks is still called, once, without its keywords.
NO_KWARGS: Mapping[str, object] = MappingProxyType({})


class Hook:
    """A hook that never raises into the training and stays behind when the model is copied or saved.

    `copy.deepcopy(model)` and `torch.save(model)` take a module's hooks along. This one is replaced by a callable of
    the standard library that takes anything and returns None, so the copy records nothing and needs no gradscope to
    load.
    """

    __slots__ = ("probe", "recorder")

    def __init__(self, probe: str, recorder: Recorder) -> None:
        self.probe = probe
        self.recorder = recorder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, str]]:
        return getattr, (nullcontext(), "__exit__")


def in_transform() -> bool:
    """Whether a transform of torch.func (vmap, jvp, …) is running: its tensors are wrappers, not the training's."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class ParameterHook:
    """A hook on a parameter's gradient.

    Autograd's C++ side holds it where Python's collector cannot see, so a strong reference from here to the recorder,
    and by it to the model, would keep a model that was never detached alive for ever.
    """

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)

    def __call__(self, parameter: Tensor) -> None:
        recorder = self._recorder()
        if recorder is not None:
            self.see(recorder, parameter)

    def see(self, recorder: Recorder, parameter: Tensor) -> None:
        """A backward has added to the gradient of `parameter`."""
        raise NotImplementedError


def gradient_receiver(
    recorder: Recorder, site: int, time: int, axis: int | None = None, *, forward: int | None = None
) -> Callable[[Tensor | None], None]:
    """What a tensor hook calls: sends the gradient of what pass `forward` computed, by default this one, to `site`.

    The graph holds it where Python's collector cannot see, and a model may keep a state with its graph: so the
    reference to the recorder is weak, as in `ParameterHook`.
    """
    of = recorder.forward if forward is None else forward
    return partial(_receive, weakref.ref(recorder), recorder.step, of, site, time, axis)


def _receive(
    recorder: "weakref.ref[Recorder]",
    step: int,
    forward: int,
    site: int,
    time: int,
    axis: int | None,
    grad: Tensor | None,
) -> None:
    running = recorder()
    if running is not None:
        running.emit_gradient(step, forward, site, time, axis, grad)


class ForwardHook(Hook):
    """A hook before or after a module's forward. `see` is what it does in a recorded step; elsewhere it does nothing.

    Attributes:
        step: The step in which it last saw something.
        time: How many times (positions of the sequence) it has seen in that step.
    """

    __slots__ = ("step", "time")

    def __init__(self, probe: str, recorder: Recorder) -> None:
        super().__init__(probe, recorder)
        self.step, self.time = -1, 0

    def __call__(self, module: nn.Module, args: tuple[object, ...], more: object = NO_KWARGS) -> None:
        recorder = self.recorder
        if not (recorder.on or recorder.boundary) or not torch.is_grad_enabled() or in_transform():
            return
        if recorder.boundary:
            recorder.advance()
            if not recorder.on:
                return
        try:
            if self.step != recorder.step:
                self.step, self.time = recorder.step, 0
            elif self.time and torch._C._current_graph_task_id() != -1:
                return  # a backward is running: an activation checkpoint computes again what was seen
            self.time += self.see(module, args, more)
        except Exception as error:
            recorder.failed(self.probe, error)

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        """Looks at a call; `more` is its keywords before, its output after the forward. How many times it covers."""
        raise NotImplementedError


def rarely(record: int) -> bool:
    """For what costs a lot and changes slowly: at the first record, then at the 8th, 16th, 32nd and so on."""
    return record == 0 or (record >= 8 and record & (record - 1) == 0)


def owner_and_name(parameter: str) -> tuple[str, str]:
    """("encoder.fc", "weight") for "encoder.fc.weight"."""
    owner, _, name = parameter.rpartition(".")
    return owner, name

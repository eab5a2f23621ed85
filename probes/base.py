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
from typing import ClassVar, ParamSpec, Protocol

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import set_eval_frame
from torch._compile import _disable_dynamo
from torch.compiler import is_compiling
from torch.utils._python_dispatch import _disable_current_modes

from gradscope.links import Link
from gradscope.records import Quantity, Statistic
from gradscope.units import Liveness, Predicate

_Arguments = ParamSpec("_Arguments")


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
        backward_ran: A gradient has arrived in this step, since the last boundary.
        passed: The model has run as compiled code since the last boundary, so that no hook saw it.
        explicit: The user ends the steps.
        one_of_several: Other processes train the same model: gradients are reduced when the backward is over.
        sharded: Of a parameter only a part lies in this process, but while its module computes.
        training_tasks: Backward passes, by autograd's number, that have added to a parameter's gradient in this step.
        liveness: Takes in the outputs of activation functions that can die.
    """

    on: bool
    step: int
    boundary: bool
    forward: int
    backward_ran: bool
    passed: bool
    explicit: bool
    one_of_several: bool
    sharded: bool
    training_tasks: set[int]
    liveness: Liveness

    def site(self, module: str, quantity: Quantity, name: str = "") -> int:
        """Index of a site; registers it when it is new."""
        ...

    def completed(self, module: str, module_type: str | None = None) -> None:
        """`module` has run for the first time: it gets the next depth, and its type where no module has that name."""
        ...

    def written(self, module: str, file: str, line: int) -> None:
        """`module` is a call of a function, and stands there."""
        ...

    def cut(self, function: str, file: str, line: int, modules: frozenset[str]) -> None:
        """A call of `function` there takes what `modules` have computed out of the graph."""
        ...

    def linked(self, link: Link, source_call: int, target_call: int) -> None:
        """What a module was given in this call comes from there: from what another took or returned in that call."""
        ...

    def computes_in(self, name: str, dtype: torch.dtype) -> None:
        """`name`, a module or a full parameter's, returns or has numbers of `dtype`."""
        ...

    def returned(self, container: str, total: Tensor) -> None:
        """The elements of what `container`, which is no site, has returned add up to `total`."""
        ...

    def passed_by(self, module: str) -> None:
        """`module` has run without gradients: should it be computed again for the backward, this is its depth."""
        ...

    def advance(self) -> None:
        """Ends the step at whose boundary we are, and begins the next."""
        ...

    def arrived(self) -> None:
        """A parameter has got a gradient; called before that is emitted, for it may begin a step."""
        ...

    def on_optimizer(self, listener: "Callable[[torch.optim.Optimizer, ExitStack], None]") -> None:
        """`listener` gets every optimizer that is attached, now or later, and where to give back what it places."""
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

    def nested(self, outer: int) -> None:
        """The running backward pass was begun within the pass `outer`, by a checkpoint, and is a part of it."""
        ...

    def is_nested(self, task: int) -> bool:
        """Whether the backward pass `task` is part of another."""
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

    def withhold(self, site: int, stat: Statistic) -> None:
        """What was derived of `stat` at `site` in this step means nothing there after all."""
        ...

    def on_step(self, listener: StepListener, probe: str) -> None:
        """`listener`, of a probe, is told when a recorded step begins and ends."""
        ...

    def tell(self, kind: str, module: str, message: str) -> None:
        """Puts an event into the trace, about something that the user should know of the recording."""
        ...

    def blind(self, module: str, why: str) -> None:
        """Notes for the report that `module` cannot be seen, or not all of it; `why` goes on after its name."""
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
        time_axes: The axis of the sequence in what a module takes and returns, where the user has named it.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    parameters: dict[str, nn.Parameter]
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
    """Whether a transform of torch.func (vmap, jvp, …), torch.jit's tracer or a mode of fake tensors is running.

    What runs in it is nothing of the training.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or (torch._C._len_torch_dispatch_stack() > 0 and torch._C._get_dispatch_mode(_FAKE) is not None)
    )


def aside(act: Callable[_Arguments, None], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
    """Runs `act` so that nobody of the training's takes what it computes for a part of it.

    Subclasses of tensors and modes are left out: default devices, counters of operations, selective checkpoints, which
    keep results of the forward and hand them out again, one after the other. So is Dynamo, which takes whatever is
    called by a function that was given to `torch.compile`, a whole step of the training for one.
    """
    if is_compiling():  # it cannot look at its own switch
        _not_compiled(act, *args, **kwargs)
        return
    compiler = set_eval_frame(None)
    try:
        _run(act, *args, **kwargs)
    finally:
        set_eval_frame(compiler)


def _run(act: Callable[_Arguments, None], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
    with torch._C.DisableTorchFunction():
        if torch._C._len_torch_dispatch_stack() == 0:
            act(*args, **kwargs)
        else:
            with _disable_current_modes():
                act(*args, **kwargs)


_not_compiled = _disable_dynamo(_run)
_FAKE = torch._C._TorchDispatchModeKey.FAKE


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
    outer = torch._C._current_graph_task_id()
    return partial(_receive, weakref.ref(recorder), recorder.step, of, outer, site, time, axis)


def _receive(
    recorder: "weakref.ref[Recorder]",
    step: int,
    forward: int,
    outer: int,
    site: int,
    time: int,
    axis: int | None,
    grad: Tensor | None,
) -> None:
    running = recorder()
    if running is not None:
        if outer != -1:
            running.nested(outer)
        aside(running.emit_gradient, step, forward, site, time, axis, grad)


class ForwardHook(Hook):
    """A hook before or after a module's forward. `see` is what it does in a recorded step; elsewhere it does nothing.

    An activation checkpoint calls the module again in the backward. Of the two kinds, one has shown it with gradients
    before: then it has been seen. The other (`use_reentrant=True`) has run it without, and what counts is the second
    call; those come last call first.

    Attributes:
        step: The step in which it last saw something.
        time: How many times (positions of the sequence) it has seen in that step.
    """

    __slots__ = ("_passed", "_unseen", "step", "time")

    def __init__(self, probe: str, recorder: Recorder) -> None:
        super().__init__(probe, recorder)
        self.step, self.time = -1, 0
        self._passed = self._unseen = 0  # calls without gradients; those of them that were not computed again yet

    def __call__(self, module: nn.Module, args: tuple[object, ...], more: object = NO_KWARGS) -> None:
        if is_compiling():  # Dynamo looks at nothing else here, and leaves the hook out
            return
        recorder = self.recorder
        if not (recorder.on or recorder.boundary) or in_transform():
            return
        if not torch.is_grad_enabled():
            if torch._C._current_graph_task_id() != -1:
                return  # a checkpoint in one that computes again: it was counted when that one first ran
            if recorder.on and not recorder.boundary:
                self._pass_by()
            elif recorder.boundary and module.training:
                self.pass_by()  # of a step that has not begun yet, if it is a checkpoint
            return
        if recorder.boundary:
            recorder.advance()
            if not recorder.on:
                return
        try:
            if self.step != recorder.step:
                self._new_step()
            if (self.time or self._passed) and torch._C._current_graph_task_id() != -1:
                aside(self._see_again, module, args, more)
            else:
                aside(self._see, module, args, more)
        except Exception as error:
            recorder.failed(self.probe, error)

    def _see(self, module: nn.Module, args: tuple[object, ...], more: object) -> None:
        self.time += self.see(module, args, more)

    def _new_step(self) -> None:
        self.step, self.time = self.recorder.step, 0
        self._passed = self._unseen = 0

    def _pass_by(self) -> None:
        """A call without gradients: a part that is not trained, or a checkpoint that will call again."""
        if self.step != self.recorder.step:
            self._new_step()
        self._passed += 1
        self._unseen += 1
        self.pass_by()

    def _see_again(self, module: nn.Module, args: tuple[object, ...], more: object) -> None:
        """A call in the backward."""
        if self._unseen:
            self._unseen -= 1
            start, self.time = self.time, self.time + self._unseen
            self.see(module, args, more)
            self.time = start
            if not self._unseen:
                self.time += self._passed
                self._passed = 0

    def pass_by(self) -> None:
        """A call without gradients, in a recorded step."""

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        """Looks at a call; `more` is its keywords before, its output after the forward. How many times it covers."""
        raise NotImplementedError


PARAMETRIZATIONS = ".parametrizations."  # in the names of what weight_norm, spectral_norm and others make weights from


def rarely(record: int) -> bool:
    """For what costs a lot and changes slowly: at the first record, then at the 8th, 16th, 32nd and so on."""
    return record == 0 or (record >= 8 and record & (record - 1) == 0)


def owner_and_name(parameter: str) -> tuple[str, str]:
    """("encoder.fc", "weight") for "encoder.fc.weight".

    What a parametrization computes a weight from belongs to the layer that has the weight: it is that layer which runs.
    """
    layer, mark, name = f".{parameter}".partition(PARAMETRIZATIONS)
    if mark:
        return layer.removeprefix("."), f"{mark}{name}".removeprefix(".")
    owner, _, name = parameter.rpartition(".")
    return owner, name

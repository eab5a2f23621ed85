"""Where a step ends and the next one begins, as the hooks see it.

    forward of the model    at a boundary the next step begins
    a gradient arrives      the same, where the forward could not be seen; without an optimizer it makes the boundary
    a checkpoint computes again    the next step begins, where nothing can be left to the one before
    an optimizer has stepped    a boundary: what follows belongs to the next step, unless another optimizer steps first

Of a compiled model the first of these cannot be seen: Dynamo traces through a hook, finds that it does nothing while it
looks, and leaves it out. What it keeps is `passed = True`.
"""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Concatenate, ParamSpec, Protocol

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.loss_scale import first_scale, only_scaler, scaler_that_steps, times_set
from gradscope.probes.base import Hook, ParameterHook, Target, in_transform
from gradscope.recorder import RECORDER, StepRecorder

_MOST_PASSES = 4096  # forward passes in one step; more hint at a step that never ends, and would pile up for ever
_NAMED, _UNKNOWN, _GUESSED, _KNOWN = range(4)  # what is known of the scaler: by the user, not yet, by guess, for sure
_MOST_UNHERALDED = 4  # losses of one forward, each with a backward of its own; more hint at a forward that nobody sees


class GradScaler(Protocol):
    """What gradscope asks of an AMP gradient scaler."""

    def get_scale(self) -> float:
        """The factor by which the loss is multiplied."""
        ...


class Edges(Protocol):
    """Who is told of the edges of steps."""

    def begins(self) -> None:
        """A step begins; the one before, if there is one, is over."""
        ...

    def ended(self) -> None:
        """A boundary has been reached: nothing but another optimizer can still belong to the running step."""
        ...

    def skipped(self) -> None:
        """The running step has been skipped by the gradient scaler; the next one begins."""
        ...

    def watched(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """An optimizer has come: these are all that there are now."""
        ...

    def stalled(self) -> None:
        """The running step has so many forward passes that it seems to have no end."""
        ...

    def failed(self, error: Exception) -> None:
        """What was to be done at an edge went wrong; the training must not notice."""
        ...


_Arguments = ParamSpec("_Arguments")


def _unheard(
    report: Callable[Concatenate["Steps", _Arguments], None],
) -> Callable[Concatenate["Steps", _Arguments], None]:
    """An error in `report`, which a hook calls, does not get into the training. During a pause nothing is reported."""

    def guarded(self: "Steps", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        if self.paused:
            return
        try:
            report(self, *args, **kwargs)
        except Exception as error:
            self.edges.failed(error)

    return guarded


class Steps:
    """Finds the edges of the steps.

    Attributes:
        edges: Is told of the edges of the steps.
        optimizers: Those whose steps end a step of the recording; without any, a backward does.
        scale: The loss scale at which the running step began.
        lr: The learning rate, of the first group of parameters, that the running step was taken with; NaN until then,
            and where the step is not recorded.
        paused: What runs is none of the training: it has no steps.
    """

    def __init__(self, target: Target, recorder: StepRecorder, edges: Edges, scaler: GradScaler | None) -> None:
        self.edges = edges
        self.optimizers: list[torch.optim.Optimizer] = []
        self.scaler: GradScaler | None = scaler
        self._scaler_is = _NAMED if scaler is not None else _UNKNOWN
        self.scale = 1.0
        self._times_set: int | None = None  # the scale, when the running step began
        self.lr = math.nan
        self.paused = False
        self._recorder = recorder
        self._own = {id(p) for p in target.parameters.values()}
        self._stepped: set[int] = set()  # the optimizers that have stepped in the running step
        # optimizers that move nothing that those attached move
        self._strangers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._task = -1  # the last backward pass that has brought a gradient
        self._unheralded = 0  # backward passes since a forward was seen
        self._handles = ExitStack()
        self._of_optimizer: dict[int, ExitStack] = {}
        recorder.gradient_arrives = self.gradient_arrives
        recorder.computes_again = self.computes_again
        self._handles.callback(target.model.register_forward_pre_hook(_PassHook(self, recorder)).remove)

    def close(self) -> None:
        """Removes every hook, and lets go of optimizers and scaler."""
        self.optimizers.clear()
        self.scaler = None
        _newcomers.forget(self)
        for handles in self._of_optimizer.values():
            handles.close()
        self._of_optimizer.clear()
        self._handles.close()

    def watch_gradients(self, target: Target) -> None:
        """Hooks the parameters' gradients, where no probe does that anyway."""
        for parameter in target.parameters.values():
            if parameter.requires_grad:
                self._handles.callback(parameter.register_post_accumulate_grad_hook(_Arrival(self._recorder)).remove)

    def use(self, scaler: GradScaler) -> None:
        """The user names the scaler."""
        self.scaler, self._scaler_is, self._times_set = scaler, _NAMED, None

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on `optimizer` ends steps; it replaces those all of whose parameters it has."""
        _newcomers.tell(self)
        moved = _moved(optimizer)
        for other in [o for o in self.optimizers if _moved(o) & self._own <= moved]:
            self.optimizers.remove(other)
            self._of_optimizer.pop(id(other)).close()
        self.optimizers.append(optimizer)
        handles = self._of_optimizer[id(optimizer)] = ExitStack()
        handles.callback(optimizer.register_step_pre_hook(_BeforeStep(self, self._recorder)).remove)
        self._recorder.new_optimizer(optimizer, handles)
        # placed last: what the others record of this step comes before its end
        handles.callback(optimizer.register_step_post_hook(_AfterStep(self, self._recorder)).remove)
        self.edges.watched(self.optimizers)

    @property
    def complete(self) -> bool:
        """Whether every optimizer has stepped in the running step; without any that is never known."""
        return 0 < len(self.optimizers) <= len(self._stepped)

    def begin(self) -> None:
        """A step begins."""
        self._stepped.clear()
        self.lr = math.nan
        if self.scaler is not None:
            self.scale, self._times_set = float(self.scaler.get_scale()), times_set(self.scaler)

    def was_skipped(self) -> bool:
        """Whether the scaler has refused to apply the gradients of the running step.

        It tells nobody, and no optimizer steps, but it lowers its scale.
        """
        recorder = self._recorder
        if recorder.boundary or not recorder.backward_ran:
            return False
        if self._scaler_is == _UNKNOWN and self.optimizers:  # a micro-batch, or the first step was skipped
            self._scaler_is = _GUESSED
            if (scaler := only_scaler()) is not None:
                self.scaler, self.scale, self._times_set = scaler, first_scale(scaler), None
        if self.scaler is None or (self._times_set is not None and times_set(self.scaler) == self._times_set):
            return False
        scale, self._times_set = float(self.scaler.get_scale()), times_set(self.scaler)
        return scale < self.scale

    def _look_for_scaler(self) -> None:
        """An optimizer steps for the first time: who makes it?"""
        self._scaler_is = _KNOWN
        scaler = scaler_that_steps()
        if scaler is not self.scaler:
            self.scaler, self._times_set = scaler, None
            self.scale = 1.0 if scaler is None else float(scaler.get_scale())

    # ---------------------------------------------------------------- what the hooks report

    @_unheard
    def forward_begins(self) -> None:
        """The whole model is about to run, with gradients."""
        recorder = self._recorder
        if recorder.boundary:
            recorder.advance()
        elif self.was_skipped():
            self.edges.skipped()
        recorder.forward += 1
        self._unheralded = 0
        if recorder.forward == _MOST_PASSES:
            self.edges.stalled()

    @_unheard
    def gradient_arrives(self) -> None:
        """The first gradient at a boundary, or any without an optimizer."""
        recorder = self._recorder
        if self.optimizers:
            # a forward that was compiled cannot be seen; but once all have stepped no backward is left to this step
            if recorder.boundary and (recorder.passed or len(self._stepped) >= len(self.optimizers)):
                self.edges.begins()
        elif not recorder.explicit:
            task = torch._C._current_graph_task_id()
            if task != self._task:
                self._task, self._unheralded = task, self._unheralded + 1
                if recorder.boundary and (recorder.passed or self._unheralded > _MOST_UNHERALDED):
                    self.edges.begins()
            if not recorder.boundary:
                self.reach_boundary()

    @_unheard
    def computes_again(self) -> None:
        """A checkpoint around the whole model computes again at a boundary: the forward has run without gradients."""
        if self.optimizers:
            over = not self._stepped or len(self._stepped) >= len(self.optimizers)
        else:
            over = self._recorder.explicit or self._task == -1  # else the gradients of this backward made the boundary
        if over:
            self.edges.begins()

    @_unheard
    def optimizer_steps(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """`optimizer` is about to step; with a `closure`, that call runs the forward itself."""
        recorder = self._recorder
        if self._scaler_is in (_UNKNOWN, _GUESSED):
            self._look_for_scaler()
        if not recorder.boundary:
            return
        # Lightning hands a closure that does nothing to each of several optimizers: that is not yet a new step
        runs_forward = closure and (not self._stepped or id(optimizer) in self._stepped)
        if runs_forward or (id(optimizer) in self._stepped and recorder.backward_ran):
            recorder.advance()

    @_unheard
    def optimizer_stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer` has stepped."""
        # now: a scheduler changes it before the step is closed; a rate that lies on an accelerator is waited for
        if self._recorder.on and not self._stepped and "lr" in (group := optimizer.param_groups[0]):
            self.lr = float(group["lr"])
        self._stepped.add(id(optimizer))
        self.reach_boundary()

    def reach_boundary(self) -> None:
        """What comes now belongs to the next step, unless an optimizer steps that has not yet."""
        recorder = self._recorder
        recorder.boundary = True
        recorder.passed = False
        recorder.backward_ran = recorder.backward_ran and not self.optimizers
        self.edges.ended()

    @_unheard
    def newcomer(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer that nobody has attached is about to step: does it move what the attached ones moved?"""
        if id(optimizer) in self._of_optimizer or optimizer in self._strangers:
            return
        moved = _moved(optimizer) & self._own
        if any(moved & _moved(known) for known in self.optimizers):
            self._recorder.tell(
                "optimizer-replaced",
                "",
                f"from step {self._recorder.step} on another {type(optimizer).__name__} moves parameters of the"
                " attached optimizer; its steps are recorded too",
            )
            self.watch(optimizer)
        else:
            self._strangers.add(optimizer)


def _moved(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


class _StepsHook(Hook):
    """A hook that tells `Steps`."""

    __slots__ = ("steps",)
    recorder: StepRecorder

    def __init__(self, steps: Steps, recorder: StepRecorder) -> None:
        super().__init__(RECORDER, recorder)
        self.steps = steps


class _PassHook(_StepsHook):
    """The whole model is called."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: object) -> None:
        if is_compiling():
            if torch.is_grad_enabled():
                self.recorder.passed = True  # stays in the compiled code: all that is left of this hook there
            return
        if torch.is_grad_enabled() and not in_transform():
            self.steps.forward_begins()


class _Arrival(ParameterHook):
    """A parameter has got a gradient."""

    __slots__ = ()

    def see(self, recorder: "StepRecorder", parameter: Tensor) -> None:  # type: ignore[override]
        recorder.arrived()


class _BeforeStep(_StepsHook):
    """An optimizer is about to step."""

    __slots__ = ()

    def __call__(
        self, optimizer: torch.optim.Optimizer, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        if not is_compiling():
            given = (*args[1:], *kwargs.values())  # wrappers pass on a closure that is None
            self.steps.optimizer_steps(optimizer, any(one is not None for one in given))


class _AfterStep(_StepsHook):
    """An optimizer has stepped."""

    __slots__ = ()

    def __call__(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if is_compiling():
            self.recorder.boundary = True
        else:
            self.steps.optimizer_stepped(optimizer)


class _Newcomers:
    """Some optimizer of the process is about to step. Torch keeps this hook, so it must not keep the recordings.

    It is one for all of them and stays until the last is detached. One that left with a recording that is merely
    collected could do so while torch goes through the hooks, and that raises into whatever training is running.
    """

    def __init__(self) -> None:
        self._told: weakref.WeakSet[Steps] = weakref.WeakSet()
        self._handle: RemovableHandle | None = None

    def tell(self, steps: Steps) -> None:
        """From now on `steps` is told."""
        self._told.add(steps)
        if self._handle is None:
            self._handle = register_optimizer_step_pre_hook(self)

    def forget(self, steps: Steps) -> None:
        """`steps` is told no more."""
        self._told.discard(steps)
        if self._handle is not None and not self._told:
            self._handle.remove()
            self._handle = None

    def __call__(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        if not is_compiling():
            for steps in list(self._told):
                steps.newcomer(optimizer)


_newcomers = _Newcomers()

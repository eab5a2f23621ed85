"""The parameters: weights, their gradients as backward left them and as the optimizer applied them, and the updates."""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.parameter import is_lazy

from gradscope.probes.base import Hook, ParameterHook, Probe, Recorder, Target, aside, owner_and_name, rarely
from gradscope.probes.leftovers import Leftover, Leftovers
from gradscope.probes.names import bare_parameters
from gradscope.processes import are_sharded, local
from gradscope.records import Quantity, Statistic
from gradscope.statistics import joinable
from gradscope.symmetry import Symmetry, soon


class Parameters(Probe):
    """w, ∂L/∂w and Δw of every parameter.

    Raw gradients are read when backward has accumulated them; where several processes train together, when it has
    averaged them too. Applied ones are read after the optimizer has stepped: by then they are reduced, unscaled and
    clipped, and under a closure they are not those of the step before. A clip between backward and step shows as a
    difference of the two. Without an optimizer Δw is what changed between two steps.
    """

    name = "parameters"
    quantities = frozenset(
        {Quantity.WEIGHT, Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD, Quantity.WEIGHT_UPDATE, Quantity.TOTAL_NORM}
    )

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a hook on each trainable parameter and two on each optimizer."""
        handles = ExitStack()
        raw = _RawGradients(recorder, target.model, handles)
        for name, parameter in target.parameters.items():
            recorder.site(*_site(name, Quantity.WEIGHT))
            if parameter.requires_grad:
                raw.place(name, parameter)
        by_hand = _ByHand(recorder, target.parameters)
        all_moved = _AllMoved()

        def moves(optimizer: torch.optim.Optimizer, until: ExitStack) -> None:
            moved = _Moved(recorder, optimizer, raw)
            all_moved.add(moved)
            by_hand.give_up(optimizer)
            until.callback(optimizer.register_step_pre_hook(_BeforeUpdate(recorder, moved)).remove)
            until.callback(optimizer.register_step_post_hook(_AfterUpdate(recorder, moved)).remove)
            raw.leftovers.steps_are_updates = True

        recorder.on_optimizer(moves)
        recorder.on_step(raw.leftovers, self.name)
        recorder.on_step(by_hand, self.name)
        recorder.on_step(all_moved, self.name)
        return handles


def _site(parameter: str, quantity: Quantity) -> tuple[str, Quantity, str]:
    owner, name = owner_and_name(parameter)
    return owner, quantity, name


class _RawGradientHook(ParameterHook):
    """Emits a parameter's gradient whenever a backward has added to it: the last one of the step counts."""

    __slots__ = ("leftover", "reduced", "site")

    def __init__(self, recorder: Recorder, site: int, reduced: "_Reduced | None", leftover: Leftover) -> None:
        super().__init__(recorder)
        self.site = site
        self.reduced = reduced
        self.leftover = leftover

    def see(self, recorder: Recorder, parameter: Tensor) -> None:
        recorder.arrived()
        traced = is_compiling()  # Dynamo makes a graph of whatever is asked of a tensor here
        if not recorder.on:
            if not traced:
                self.leftover.leave(parameter, recorder.step)
            return
        try:
            recorder.training_tasks.add(torch._C._current_graph_task_id())
            aside(self._look_at, recorder, parameter)
            if not traced:
                self.leftover.leave(parameter, recorder.step)
        except Exception as error:
            recorder.failed(Parameters.name, error)

    def _look_at(self, recorder: Recorder, parameter: Tensor) -> None:
        self.leftover.arrive(parameter)
        if self.reduced is not None:
            self.reduced.wait_for(self.site, parameter, recorder.step)
        elif parameter.grad is not None:
            recorder.emit_gradient_of(self.site, parameter.grad)


class _Reduced:
    """Gradients of which the backward is not over before those of all processes are averaged.

    Hooks on parameters see this process's own. DDP and FSDP2 wait for the average in callbacks that run when the
    backward is over, in the order in which they were queued; one that is queued from within another comes after all.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)  # autograd holds the hooks, see `ParameterHook`
        self._waiting: dict[int, weakref.ref[Tensor]] = {}
        self._queued: set[int] = set()  # backward passes of the running step
        self._step = -1

    def wait_for(self, site: int, parameter: Tensor, step: int) -> None:
        """Emits the gradient of `parameter` when the running backward is over."""
        if step != self._step:
            self._step = step
            self._waiting.clear()  # those of a backward that raised
            self._queued.clear()
        task = torch._C._current_graph_task_id()
        if task not in self._queued:
            self._queued.add(task)
            torch.autograd.Variable._execution_engine.queue_callback(self._queue_behind)
        self._waiting[site] = weakref.ref(parameter)

    def _queue_behind(self) -> None:
        torch.autograd.Variable._execution_engine.queue_callback(self._emit)

    def _emit(self) -> None:
        recorder = self._recorder()
        if recorder is None or not recorder.on:
            return
        try:
            for site, reference in self._waiting.items():
                parameter = reference()
                if parameter is not None and parameter.grad is not None:
                    aside(recorder.emit_gradient_of, site, parameter.grad)
            if not recorder.is_nested(torch._C._current_graph_task_id()):  # else the end of the outer one counts
                self._waiting.clear()
        except Exception as error:
            recorder.failed(Parameters.name, error)


class _Weights:
    """Parameters that change together: emits what they are, and after a step what has become of them.

    Large ones are taken one at a time: what was read for one purpose is still in the cache for the next.
    """

    def __init__(self, recorder: Recorder, parameters: Mapping[str, nn.Parameter], *, applied: bool) -> None:
        self._recorder = recorder
        ordered = sorted(parameters.items(), key=lambda item: joinable(local(item[1])))
        self._parameters: list[Tensor] = [parameter for _, parameter in ordered]
        self._sharded = are_sharded(self._parameters)
        self._weights = [local(parameter) for parameter in self._parameters]
        self._large = sum(not joinable(parameter) for parameter in self._weights)
        names = [name for name, _ in ordered]
        for name, parameter in ordered:
            recorder.computes_in(name, parameter.dtype)
        self._weight_sites = [recorder.site(*_site(name, Quantity.WEIGHT)) for name in names]
        self._update_sites = [recorder.site(*_site(name, Quantity.WEIGHT_UPDATE)) for name in names]
        self._applied_sites = [recorder.site(*_site(n, Quantity.APPLIED_GRAD)) for n in names] if applied else []
        self._before: list[Tensor] = []  # kept between the steps: fresh memory costs ten times the copy in page faults
        self._copied = False
        self._symmetry = Symmetry()
        self._records = 0

    @torch.no_grad()
    def before(self) -> None:
        """Emits the weights and keeps a copy, until `after`."""
        recorder, large = self._recorder, self._large
        if not self._weights:
            return
        if self._sharded:
            self._weights = [local(parameter) for parameter in self._parameters]
        if not all(map(_alike, self._before, self._weights)) or not self._before:
            self._before = [torch.empty_like(w) for w in self._weights]
        for site, weight, copy in zip(self._weight_sites[:large], self._weights, self._before, strict=False):
            recorder.emit_many([site], [weight])
            copy.copy_(weight)
        if len(self._weights) > large:
            recorder.emit_many(self._weight_sites[large:], self._weights[large:])
            torch._foreach_copy_(self._before[large:], self._weights[large:])
        self._copied = True
        if rarely(self._records) or soon(self._records):  # units that are equal stay so or part soon
            for site, weight, parameter in zip(self._weight_sites, self._weights, self._parameters, strict=True):
                if weight is not parameter:
                    continue  # rows that equal those of another process's shard would be missed
                if weight.ndim >= 2 and len(weight) >= 2 and weight.numel() > len(weight):
                    recorder.derive(site, Statistic.SYMMETRIC_FRACTION, self._symmetry.fraction(site, weight))
        self._records += 1

    @torch.no_grad()
    def after(self) -> None:
        """Emits the gradients as they were applied, and the change since `before`."""
        recorder, large = self._recorder, self._large
        if self._applied_sites:
            found = zip(self._applied_sites, self._parameters, strict=True)
            given = [(site, local(w.grad)) for site, w in found if w.grad is not None]
            recorder.emit_many([site for site, _ in given], [grad for _, grad in given])
        if not self._copied:  # the step began before the recording did
            return
        self._copied = False
        for site, weight, old in zip(self._update_sites[:large], self._weights, self._before, strict=False):
            recorder.emit_many([site], [torch.sub(weight, old, out=old)])
        if len(self._weights) > large:
            changes = torch._foreach_sub(self._weights[large:], self._before[large:])
            recorder.emit_many(self._update_sites[large:], changes)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype is other.dtype and one.device == other.device


def _put_first(ours: int, hooks: dict[int, object]) -> None:
    """Hooks of others may step an optimizer and drop the gradient, so ours is called before.

    Autograd goes by the order of insertion, whatever an OrderedDict says of it.
    """
    hooks.update({number: hooks.pop(number) for number in list(hooks) if number != ours})


class _RawGradients:
    """The hooks on the parameters' gradients, one for each that is trainable, also if it becomes so later."""

    def __init__(self, recorder: Recorder, model: nn.Module, handles: ExitStack) -> None:
        self._recorder = recorder
        self._model = model
        self._handles = handles
        self._reduced = _Reduced(recorder) if recorder.one_of_several else None
        self.leftovers = Leftovers(recorder)
        # not weak: torch refuses to swap the insides of a tensor to which there are weak references
        self._placed: dict[str, nn.Parameter] = {}

    def names(self) -> dict[int, str]:
        """Full names of the parameters that the model has now, by identity."""
        return {id(p): name for name, p in bare_parameters(self._model).items()}

    def place(self, name: str, parameter: nn.Parameter) -> None:
        """Hooks `parameter` if that has not been done."""
        if self._placed.get(name) is not parameter:
            self._placed[name] = parameter
            site = self._recorder.site(*_site(name, Quantity.WEIGHT_GRAD))
            hook = _RawGradientHook(self._recorder, site, self._reduced, self.leftovers.of(site, parameter))
            with torch._C.DisableTorchFunctionSubclass():  # one without a shape refuses, but keeps it all the same
                handle = parameter.register_post_accumulate_grad_hook(hook)
                if torch._C._current_graph_task_id() == -1:  # it may be going through them otherwise
                    _put_first(handle.id, parameter._post_accumulate_grad_hooks)
                self._handles.callback(handle.remove)


class _Moved:
    """The parameters that one optimizer moves; looked up anew when its groups, or what is frozen, have changed."""

    def __init__(self, recorder: Recorder, optimizer: torch.optim.Optimizer, raw: _RawGradients) -> None:
        self._recorder = recorder
        self._optimizer = optimizer
        self._raw = raw
        self._held: list[int] = []
        self.weights = _Weights(recorder, {}, applied=True)
        self.lookup()

    def lookup(self) -> _Weights:
        """The parameters as of now; those of lazy modules once they have a shape."""
        groups = self._optimizer.param_groups
        held = [p for group in groups for p in group["params"] if p.requires_grad and not is_lazy(p)]
        ids = [id(p) for p in held]
        if ids != self._held:
            self._held = ids
            names = self._raw.names()
            named = {names[id(p)]: p for p in held if id(p) in names}
            for name, parameter in named.items():
                self._raw.place(name, parameter)
            self.weights = _Weights(self._recorder, named, applied=True)
        return self.weights


class _AllMoved:
    """When a step begins: a hook on a new parameter must be there before its first gradient is."""

    def __init__(self) -> None:
        self._moved: weakref.WeakSet[_Moved] = weakref.WeakSet()  # held by the hooks on their optimizers
        self.add = self._moved.add

    def begin(self) -> None:
        """Looks up what the optimizers move."""
        for moved in self._moved:
            moved.lookup()

    def end(self) -> None:
        """Nothing is left to do."""


class _BeforeUpdate(Hook):
    __slots__ = ("moved",)

    def __init__(self, recorder: Recorder, moved: _Moved) -> None:
        super().__init__(Parameters.name, recorder)
        self.moved = moved

    def __call__(self, optimizer: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        if is_compiling() or not self.recorder.on:
            return
        try:
            aside(self.moved.lookup().before)
        except Exception as error:
            self.recorder.failed(self.probe, error)


class _AfterUpdate(Hook):
    __slots__ = ("moved",)

    def __init__(self, recorder: Recorder, moved: _Moved) -> None:
        super().__init__(Parameters.name, recorder)
        self.moved = moved

    def __call__(self, optimizer: object, args: object, kwargs: object) -> None:
        if is_compiling() or not self.recorder.on:
            return
        try:
            aside(self.moved.weights.after)
        except Exception as error:
            self.recorder.failed(self.probe, error)


class _ByHand:
    """Parameters that no optimizer moves: frozen ones, and all of them in a loop that updates by hand."""

    def __init__(self, recorder: Recorder, parameters: Mapping[str, nn.Parameter]) -> None:
        self._recorder = recorder
        self._rest = dict(parameters)
        self._alone = True  # no optimizer is known, so what requires a gradient is moved by hand
        self._moving = _Weights(recorder, {}, applied=False)
        self._still: list[Tensor] = []
        self._still_sites: list[int] = []
        self._sorted = False

    def give_up(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer` moves some of them."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
        self._rest = {name: p for name, p in self._rest.items() if id(p) not in held}
        self._alone = self._sorted = False

    def _sort(self) -> None:
        recorder = self._recorder
        rest = {name: p for name, p in self._rest.items() if not is_lazy(p)}
        self._sorted = len(rest) == len(self._rest)
        moving = {name: p for name, p in rest.items() if self._alone and p.requires_grad}
        still = {name: p for name, p in rest.items() if name not in moving}
        self._moving = _Weights(recorder, moving, applied=False)
        self._still = list(still.values())
        self._still_sites = [recorder.site(*_site(name, Quantity.WEIGHT)) for name in still]

    def begin(self) -> None:
        """The step begins: emits the weights that it will use."""
        if not self._sorted:
            self._sort()
        self._moving.before()
        self._recorder.emit_many(self._still_sites, [local(parameter) for parameter in self._still])

    def end(self) -> None:
        """The step ends: emits what has changed."""
        self._moving.after()

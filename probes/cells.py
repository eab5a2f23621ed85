"""The states of cells: modules that a Python loop calls once for each step of a sequence.

    for t in range(length):
        h = cell(x[t], h)     # pre-hook: is h what the call before returned?    forward hook: h_t, a hook for ∂L/∂h_t

The time of a state is the number of the call within the step. What happens inside of torch's fused layers is left to
`recurrent`.
"""

import inspect
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target, gradient_receiver
from gradscope.probes.lstm_cell import Receive, watch_memory
from gradscope.probes.names import bare_modules
from gradscope.probes.tensors import named_tensors
from gradscope.records import Quantity

# torch's own cells: the name of each state by its path in what they return
_TORCH_CELLS: dict[type[nn.Module], dict[str, str]] = {
    nn.RNNCell: {"": "h"},
    nn.GRUCell: {"": "h"},
    nn.LSTMCell: {"0": "h", "1": "c"},
}
_LSTM_INPUTS = ("0", "input"), ("1.0", "hx.0")  # paths of x and h in what `nn.LSTMCell` is given
_MOST_NODES = 256  # of the graph between two calls are looked at: a loop does not do more to its state


class Cells(Probe):
    """h_t and the whole ∂L/∂h_t of every cell, and the state h0 with which each sequence begins.

    `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell` are cells. A hand-written module shows in its second call that it is
    one: it is given the very tensor that it returned in the first, and an input beside it, either before the state
    (`cell(x, h)`) or a new one in each call (`cell(h, x)`). So neither towers that share their weights nor a block
    that is applied to its own output again, with the same mask, count as a sequence.

    A call goes on with the sequence if its state follows from what the call before returned, be it through a mask or
    a dropout. Else a sequence begins: with zeros, with a given state, or with one that was detached.
    """

    name = "cells"
    quantities = frozenset({Quantity.STATE, Quantity.STATE_GRAD})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward pre-hook and a forward hook on each module that is a cell or can turn out to be one."""
        handles = ExitStack()
        cells: dict[int, _Cell] = {}
        modules = bare_modules(target.model)
        for name, module in modules.items():
            if not isinstance(module, torch.jit.ScriptModule) and (_states_of(module) or _can_be_cell(module)):
                cell = cells[id(module)] = _Cell(recorder, name, _states_of(module))
                handles.callback(cell.release)
                handles.callback(module.register_forward_pre_hook(_BeforeCall(recorder, cell), with_kwargs=True).remove)
                handles.callback(module.register_forward_hook(_AfterCall(recorder, cell)).remove)
        for module in [m for m in modules.values() if id(m) in cells]:
            for inner in list(bare_modules(module).values())[1:]:
                if id(inner) in cells:
                    cells[id(module)].inner.append(cells[id(inner)])
                elif isinstance(inner, nn.RNNBase):
                    layer = _Fused(recorder)
                    cells[id(module)].inner.append(layer)
                    handles.callback(inner.register_forward_pre_hook(layer, with_kwargs=True).remove)
        recorder.on_step(_Edges(list(cells.values())), self.name)
        return handles


def _states_of(module: nn.Module) -> "list[_State]":
    """The states of one of torch's cells; none of any other module."""
    names = next((names for cls, names in _TORCH_CELLS.items() if isinstance(module, cls)), {})
    return [_State(path, name, _join("1", path), _join("hx", path)) for path, name in names.items()]


def _can_be_cell(module: nn.Module) -> bool:
    """Whether a module was written by hand and takes a state beside its input."""
    forward = type(module).forward
    if isinstance(module, nn.RNNBase) or str(getattr(forward, "__module__", "")).startswith("torch."):
        return False
    try:
        parameters = list(inspect.signature(forward).parameters.values())[1:]  # without self
    except (TypeError, ValueError):
        return False
    kinds = [parameter.kind for parameter in parameters]
    return len(kinds) - kinds.count(inspect.Parameter.VAR_KEYWORD) > 1 or inspect.Parameter.VAR_POSITIONAL in kinds


class _Weak:
    """A tensor as it is now, without keeping it alive: the activation must die when the training lets go of it."""

    __slots__ = ("_leaf", "_ref", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._ref = weakref.ref(tensor)
        self._version = tensor._version
        self._leaf = tensor.is_leaf

    def tensor(self) -> Tensor | None:
        """The tensor, if it is still alive and what it was."""
        tensor = self._ref()
        return tensor if tensor is not None and self.still_is(tensor) else None

    def still_is(self, tensor: Tensor) -> bool:
        """Whether it is this very tensor, changed neither by an operation in place nor by `detach_`."""
        return self._ref() is tensor and self._version == tensor._version and self._leaf == tensor.is_leaf


class _State:
    """One state of a cell.

    Attributes:
        path: Where it is in what the cell returns.
        name: What its sites are called.
        given: Paths where it is in what the cell is given.
    """

    __slots__ = ("given", "name", "path")

    def __init__(self, path: str, name: str, *given: str) -> None:
        self.path, self.name, self.given = path, name, given

    @property
    def start(self) -> str:
        """What the sites of the state are called with which a sequence begins: "h0" of "h", "h0.1.0" of "h.1.0"."""
        return f"{self.name[0]}0{self.name[1:]}"


class _Cell:
    """What is known of one module: its states, if it is a cell, and its last call in the running step.

    Attributes:
        states: Empty as long as the module has not turned out to be a cell.
        inner: The recurrent modules inside. A state that is passed on to one of them is theirs.
    """

    __slots__ = (
        "_calls", "_ends", "_forward", "_given", "_given_before", "_handed_back", "_held", "_leaves", "_name", "_new",
        "_recorder", "_returned", "_starting", "_step", "inner", "states",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, name: str, states: list[_State]) -> None:
        self._recorder = recorder
        self._name = name
        self.states = states
        self.inner: list[_Cell | _Fused] = []
        self._step = -1
        self._calls = 0
        self._forward = 0  # the forward pass in which the last call was
        self._given: dict[str, _Weak] = {}
        self._given_before: dict[str, _Weak] = {}  # by the call before
        self._handed_back: dict[str, tuple[str, ...]] = {}  # what looks like a state in the running call
        self._returned: dict[str, _Weak] = {}
        self._ends: set[int] = set()  # where the graph of the last call ends, by autograd's numbers
        self._starting: list[_State] = []  # those that the running call was not given
        self._new = True  # no recorded step of it has ended
        self._held: list[Tensor] = []
        self._leaves: list[torch.utils.hooks.RemovableHandle] = []

    def before(self, args: tuple[object, ...], kwargs: object) -> None:
        """The module is called: its states go on, or begin."""
        if self._step != self._recorder.step:
            self.release()
            self._step, self._calls = self._recorder.step, 0
            self._given, self._returned, self._ends = {}, {}, set()
        given = _given_tensors(args, kwargs)
        self._given_before, self._given = self._given, {path: _Weak(tensor) for path, tensor in given.items()}
        if not self.states:
            self._handed_back = self._look_for_states(given) if self._returned else {}
            return
        self._starting.clear()
        for state in self.states:
            tensor = next((given[path] for path in state.given if path in given), None)
            if tensor is None:
                self._starting.append(state)
            elif not self._goes_on(tensor):
                self._begin(state, tensor, self._calls, self._recorder.forward)

    def after(self, module: nn.Module, output: object) -> None:
        """The module has returned."""
        recorder, time = self._recorder, self._calls
        if self._handed_back:
            self._recognise()
            self._handed_back = {}
        returned = _returned_tensors(output)
        self._returned = {path: _Weak(tensor) for path, tensor in returned.items()}
        self._forward = recorder.forward
        self._calls += 1
        if self._held:
            self._held = []
        if self.states:
            self._ends = {t.grad_fn._sequence_nr() for t in returned.values() if t.grad_fn is not None}
            for state in self.states:
                if state.path in returned:
                    self._emit(state, returned[state.path], time, recorder.forward)
                    self._watch(state, returned, module, time)
        elif self._new and not time:
            # The state that the first call of all was given. A loop lets go of it, but that it was a state only shows
            # in the second call. No activation of the training is kept: nothing has computed it.
            shapes = {tensor.shape for tensor in returned.values() if tensor.requires_grad}
            inputs = (kept.tensor() for kept in self._given.values())
            self._held = [t for t in inputs if t is not None and not t.requires_grad and t.shape in shapes]

    def takes(self, tensor: Tensor) -> bool:
        """Whether the last call was given `tensor` as a state."""
        paths = [path for state in self.states for path in state.given if path in self._given]
        return any(self._given[path].still_is(tensor) for path in paths)

    def end_step(self) -> None:
        """The step is over."""
        if self._calls:
            self._new = False
        self.release()

    def release(self) -> None:
        """Lets go of what would outlive the step."""
        self._held.clear()
        for handle in self._leaves:
            handle.remove()
        self._leaves.clear()

    def _look_for_states(self, given: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
        """What the call before returned and this one is given, path by path; nothing if this is no cell."""
        found: dict[str, tuple[str, ...]] = {}
        for path, tensor in given.items():
            # of several paths the last: (output, state) is more usual than the reverse
            for last in [p for p, kept in self._returned.items() if kept.still_is(tensor)][-1:]:
                found[last] = (*found.get(last, ()), path)
        states = {path for paths in found.values() for path in paths}
        inputs = [path for path in given if path not in states]
        input_first = inputs[:1] == list(given)[:1]
        before = self._given_before.values()
        return found if input_first or any(not any(b.still_is(given[i]) for b in before) for i in inputs) else {}

    def _recognise(self) -> None:
        """The module is a cell, as it was handed back what it had returned; that call began a sequence.

        It is said after the second call only: by then the recurrent modules inside know what they were given.
        """
        time, forward = self._calls - 1, self._forward
        lasts = {path: self._returned[path].tensor() for path in self._returned if path in self._handed_back}
        own = {p: t for p, t in lasts.items() if t is not None and not any(inner.takes(t) for inner in self.inner)}
        self.states += [_State(path, _join("h", path), *self._handed_back[path]) for path in own]
        for state in self.states:
            self._emit(state, own[state.path], time, forward)
            if own[state.path].requires_grad:
                own[state.path].register_hook(self._receiver(state, time, forward))
        for state in self.states:
            was = [self._given_before[path] for path in state.given if path in self._given_before]
            start = was[0].tensor() if was else torch.zeros_like(own[state.path])
            if start is not None:
                self._begin(state, start, time, forward)

    def _goes_on(self, tensor: Tensor) -> bool:
        """Whether a state follows from what the call before returned."""
        return any(kept.still_is(tensor) for kept in self._returned.values()) or _follows(tensor, self._ends)

    def _begin(self, state: _State, tensor: Tensor, time: int, forward: int) -> None:
        """A sequence begins at `time` with `tensor`."""
        recorder = self._recorder
        for quantity in (Quantity.STATE, Quantity.STATE_GRAD) if tensor.requires_grad else (Quantity.STATE,):
            for each in self.states:  # before the starts: the first site of a module is that of h_t
                recorder.site(self._name, quantity, each.name)
        self._place(recorder.site(self._name, Quantity.STATE, state.start), tensor, time, forward)
        if tensor.requires_grad:
            site = recorder.site(self._name, Quantity.STATE_GRAD, state.start)
            handle = tensor.register_hook(gradient_receiver(recorder, site, time, forward=forward))
            if tensor.is_leaf:
                self._leaves.append(handle)  # it outlives the step; the others go with the graph

    def _emit(self, state: _State, tensor: Tensor, time: int, forward: int) -> None:
        """`state` is `tensor` after the call number `time`."""
        recorder = self._recorder
        recorder.completed(self._name)
        self._place(recorder.site(self._name, Quantity.STATE, state.name), tensor, time, forward)
        if state in self._starting:
            self._begin(state, torch.zeros_like(tensor), time, forward)

    def _receiver(self, state: _State, time: int, forward: int) -> Receive:
        recorder = self._recorder
        return gradient_receiver(
            recorder, recorder.site(self._name, Quantity.STATE_GRAD, state.name), time, forward=forward
        )

    def _watch(self, state: _State, returned: Mapping[str, Tensor], module: nn.Module, time: int) -> None:
        """Sends the gradient of `state`, which the running call has returned, to its site."""
        tensor = returned[state.path]
        if not tensor.requires_grad:
            return
        receive = self._receiver(state, time, self._forward)
        if state.name == "c" and type(module).forward is nn.LSTMCell.forward:
            x, h = (next((k.tensor() for p in paths if (k := self._given.get(p))), None) for paths in _LSTM_INPUTS)
            watch_memory(module, x, h, returned["0"], tensor, receive)
        else:
            tensor.register_hook(receive)

    def _place(self, site: int, tensor: Tensor, time: int, forward: int) -> None:
        recorder = self._recorder
        if forward == recorder.forward:
            recorder.emit(site, tensor, time)
        else:  # the model itself is the cell: the call before was another forward pass
            recorder.emit_slices(site, tensor.detach().unsqueeze(0), 0, time, mark=forward)


class _CellHook(ForwardHook):
    """A hook before or after the forward of what is, or can turn out to be, a cell."""

    __slots__ = ("cell",)

    def __init__(self, recorder: Recorder, cell: _Cell) -> None:
        super().__init__(Cells.name, recorder)
        self.cell = cell


class _BeforeCall(_CellHook):
    __slots__ = ()

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        if _in_backward():
            return 0
        self.cell.before(args, more)
        return 1


class _AfterCall(_CellHook):
    __slots__ = ()

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        if _in_backward():
            return 0
        self.cell.after(module, more)
        return 1


class _Fused(ForwardHook):
    """The states that one of torch's recurrent layers was given last."""

    __slots__ = ("_given",)

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(Cells.name, recorder)
        self._given: list[_Weak] = []

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        self._given = [
            _Weak(tensor) for path, tensor in _given_tensors(args, more).items() if path not in ("0", "input")
        ]
        return 1

    def takes(self, tensor: Tensor) -> bool:
        """Whether `tensor` is one of them."""
        return any(kept.still_is(tensor) for kept in self._given)


class _Edges:
    """Tells the cells that a step is over."""

    def __init__(self, cells: Sequence[_Cell]) -> None:
        self._cells = cells

    def begin(self) -> None:
        """Nothing to do before the first call."""

    def end(self) -> None:
        """The step is over."""
        for cell in self._cells:
            cell.end_step()


def _in_backward() -> bool:
    """Whether a checkpoint computes again: it goes through its calls from the last to the first, so has no time."""
    return torch._C._current_graph_task_id() != -1


def _given_tensors(args: tuple[object, ...], kwargs: object) -> dict[str, Tensor]:
    """The tensors of a call by place and keyword. An input may be of integers, as tokens are."""
    given: dict[str, Tensor] = {}
    for place, value in enumerate(args):
        _add(given, str(place), value)
    if kwargs and isinstance(kwargs, Mapping):
        for name, value in kwargs.items():
            _add(given, name, value)
    return given


def _add(given: dict[str, Tensor], name: str, value: object) -> None:
    if type(value) is Tensor or isinstance(value, Tensor):  # the first is quicker, and what most are
        given[name] = value
    elif value is not None:
        given.update(named_tensors(value, name))


def _returned_tensors(output: object) -> dict[str, Tensor]:
    if type(output) is Tensor and output.is_floating_point():  # what most modules return
        return {"": output}
    return dict(named_tensors(output))


def _join(name: str, path: str) -> str:
    return f"{name}.{path}" if path else name


def _follows(tensor: Tensor, ends: set[int]) -> bool:
    """Whether the graph leads from `tensor` back to one of the nodes with the numbers `ends`.

    Autograd numbers its nodes as they are made, so whatever is older than those cannot depend on them: the search ends
    with what was computed between two calls.
    """
    if not ends or tensor.grad_fn is None:
        return False
    oldest, queue, seen = min(ends), [tensor.grad_fn], set[int]()
    while queue and len(seen) < _MOST_NODES:
        node = queue.pop()
        number = node._sequence_nr()
        if number in ends:
            return True
        if number > oldest and number not in seen:
            seen.add(number)
            queue += [before for before, _ in node.next_functions if before is not None]
    return False

"""Which module is given what another has returned, directly or by way of functions.

In the first recorded steps only. Every tensor that a module is given or returns is marked: by the node of autograd's
graph that it comes from, in the dictionary that torch lets a node have, and where it has no node by its identity. From
what a module is given, the graph is followed back to the nearest marks. Nothing here keeps a graph alive: the marks lie
on the nodes themselves and refer to nothing.
"""

import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from gradscope.links import INPUT, MOST_CALLS, OUTPUT, End, Link, Side, adds_up_rows
from gradscope.probes.base import NO_KWARGS, ForwardHook, Probe, Recorder, Target, aside, in_transform
from gradscope.probes.names import is_leaf
from gradscope.probes.products import name_of
from gradscope.probes.tensors import given_tensors, named_tensors
from gradscope.records import Quantity

STEPS = 4  # recorded ones that are looked at: models that take turns with their parts show all of them
_MOST_NODES = 1000  # between two marks
_MOST_NAMES = 12  # of the functions between two points; the rest tells nothing new


class Flow(Probe):
    """The graph of the forward pass: which observed module feeds which, and by which functions."""

    name = "flow"
    quantities: ClassVar[frozenset[Quantity]] = frozenset()

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a hook before and after each observed module that computes by itself, for the first steps."""
        ways = ways_of(recorder)
        hooks = []
        for name, module in target.modules.items():
            if is_leaf(module):
                given, returned = _GivenHook(recorder, ways, name), _ReturnedHook(recorder, ways, name)
                if not type(module).__module__.startswith("torch.nn."):
                    ways.computes(name)
                hooks.append(module.register_forward_pre_hook(given, with_kwargs=True))
                hooks.append(module.register_forward_hook(returned))
        if not is_leaf(target.model):
            hooks.append(target.model.register_forward_hook(_ModelHook(recorder, ways)))
        handles = ExitStack()
        for hook in hooks:
            handles.callback(hook.remove)  # once more: the fast path of an evaluation may have put them aside
        handles.callback(ways.clear)
        recorder.on_step(_FirstSteps(ways, hooks), self.name)
        return handles


class _FirstSteps:
    """Takes the hooks away once enough was seen; where code was compiled with them, they stay and do nothing."""

    def __init__(self, ways: "Ways", hooks: Sequence[RemovableHandle]) -> None:
        self._ways = ways
        self._hooks = hooks
        self._left = STEPS

    def begin(self) -> None:
        """A recorded step begins."""
        self._ways.on = self._left > 0

    def end(self) -> None:
        """A recorded step is over."""
        self._left -= 1
        self._ways.clear()
        self._ways.on = False
        if self._left == 0 and not _has_compiled():
            for hook in self._hooks:
                hook.remove()


def _has_compiled() -> bool:
    """Whether Dynamo has compiled something in this process: what it has, is compiled anew where hooks go."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    return bool(frames is not None and frames.FRAME_COUNTER)


@dataclass(frozen=True, slots=True)
class _Point:
    """A tensor at one end of a module, in one of its calls."""

    end: End
    call: int


class Ways:
    """Where the tensors of the running step come from.

    Attributes:
        on: Whether this step is looked at.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.on = False
        self._recorder = weakref.ref(recorder)
        self._key = f"gradscope {id(self)}"  # of our marks in a node's dictionary
        self._known: dict[int, tuple[weakref.ref[Tensor], int, _Point]] = {}
        self._own: set[str] = set()

    def given(self, module: str, call: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """`module` is about to be called with these."""
        if not self.on or call >= MOST_CALLS:
            return
        found = False
        for name, tensor in tensors:
            found = True
            self._arrives(_Point(End(module, Side.GIVEN, name), call), tensor)
        if not found and not _computed_apart():  # whole numbers, such as what an embedding looks up
            self._link(_START, _Point(End(module, Side.GIVEN), call), ())

    def returned(self, module: str, call: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """`module` has returned these."""
        if self.on:
            for name, tensor in tensors:
                if call < MOST_CALLS and module in self._own:
                    self._inside(module, call, name, tensor)
                self._mark(tensor, _Point(End(module, Side.RETURNED, name), min(call, MOST_CALLS - 1)))

    def computes(self, module: str) -> None:
        """`module` is no layer of torch's: what it does with what it is given is looked at as well."""
        self._own.add(module)

    def left(self, call: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """The model has returned these."""
        if not self.on or call >= MOST_CALLS:
            return
        for name, tensor in tensors:
            if tensor.requires_grad:
                for source, through in self._sources(tensor):
                    self._link(source, _Point(End(OUTPUT, Side.GIVEN, name), call), through)

    def clear(self) -> None:
        """Forgets the tensors of the step."""
        self._known.clear()

    def _inside(self, module: str, call: int, name: str, tensor: Tensor) -> None:
        """A way through `module` on which rows are added up; all others say nothing that is not known."""
        for _, through in self._sources(tensor):
            if any(map(adds_up_rows, through)):
                ends = _Point(End(module, Side.GIVEN), call), _Point(End(module, Side.RETURNED, name), call)
                self._link(*ends, through)
                return

    def _arrives(self, point: _Point, tensor: Tensor) -> None:
        sources = list(self._sources(tensor))
        if not tensor.requires_grad:  # data that several modules are given lead no gradient around any of them
            sources = [found for found in sources if found[0].end.side is Side.RETURNED]
        for source, through in sources:
            self._link(source, point, through)
        if not sources and not _computed_apart():
            self._link(_START, point, ())
        if not sources or sources[0][1]:  # else it is the very tensor that is known already
            self._mark(tensor, point)

    def _link(self, source: _Point, target: _Point, through: tuple[str, ...]) -> None:
        recorder = self._recorder()
        if recorder is not None:
            recorder.linked(Link(source.end, target.end, through), source.call, target.call)

    def _mark(self, tensor: Tensor, point: _Point) -> None:
        node = tensor.grad_fn
        if node is not None:
            notes = _notes(node).setdefault(self._key, {})
            notes[tensor.output_nr] = point
        # by identity too: a reentrant checkpoint computes without a graph, and puts its own node on what it returns
        self._known[id(tensor)] = weakref.ref(tensor), _version(tensor), point

    def _at(self, tensor: Tensor) -> _Point | None:
        known = self._known.get(id(tensor))
        return known[2] if known is not None and known[0]() is tensor and known[1] == _version(tensor) else None

    def _sources(self, tensor: Tensor) -> Iterator[tuple[_Point, tuple[str, ...]]]:
        """The nearest points behind `tensor`, with the functions between."""
        same = self._at(tensor)
        if same is not None:
            yield same, ()
            return
        waiting: deque[tuple[Node | None, int, tuple[str, ...]]] = deque([(tensor.grad_fn, tensor.output_nr, ())])
        seen: set[tuple[Node, int]] = set()
        reached: set[_Point] = set()
        while waiting and len(seen) < _MOST_NODES:
            node, output, after = waiting.popleft()
            if node is None or (node, output) in seen:
                continue
            seen.add((node, output))
            point = self._mark_on(node, output)
            if point is None:
                for place, (following, number) in enumerate(node.next_functions):
                    if following is not None:
                        waiting.append((following, number, (name_of(node, place), *after)[:_MOST_NAMES]))
            elif point not in reached:
                reached.add(point)
                yield point, after

    def _mark_on(self, node: Node, output: int) -> _Point | None:
        marks = _notes(node).get(self._key)
        if marks is not None:
            return marks.get(output)
        leaf = getattr(node, "variable", None)  # the node of a leaf: what the model was given may be one
        return self._at(leaf) if isinstance(leaf, Tensor) else None


def _version(tensor: Tensor) -> int:
    """How many times it was changed in place; nobody counts it for what was made in inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def _notes(node: Node) -> dict[str, dict[int, _Point]]:
    """What can be written on a node; torch's own notes in it have other keys."""
    return node.metadata  # type: ignore[return-value]  # a property, whatever torch's class says


def in_backward() -> bool:
    """Whether a backward pass is running in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


def _computed_apart() -> bool:
    """Whether a checkpoint is running, which shows its part of the model without what lies before."""
    return in_backward() or not torch.is_grad_enabled()


_START = _Point(End(INPUT, Side.RETURNED), 0)
_ways: "weakref.WeakKeyDictionary[Recorder, Ways]" = weakref.WeakKeyDictionary()


def ways_of(recorder: Recorder) -> Ways:
    """Those of `recorder`: the probe that sees calls of functions tells them to the same."""
    if recorder not in _ways:
        _ways[recorder] = Ways(recorder)
    return _ways[recorder]


class _WayHook(ForwardHook):
    """What the hooks share."""

    __slots__ = ("module", "ways")

    def __init__(self, recorder: Recorder, ways: Ways, module: str) -> None:
        super().__init__(Flow.name, recorder)
        self.ways = ways
        self.module = module

    def __call__(self, module: nn.Module, args: tuple[object, ...], more: object = NO_KWARGS) -> None:
        if is_compiling():  # Dynamo looks at nothing else here, and leaves the hook out
            return
        if self.ways.on and not torch.is_grad_enabled() and self.counts_without_graph:
            try:  # the first run of a reentrant checkpoint: there is no graph, but a chain of modules shows
                aside(self.show, args, more, self._next)
            except Exception as error:
                self.recorder.failed(self.probe, error)
        super().__call__(module, args, more)

    @property
    def counts_without_graph(self) -> bool:
        """Whether a call without gradients may be one that is computed again in the backward."""
        recorder = self.recorder
        return recorder.on and not recorder.boundary and not in_transform() and not in_backward()

    @property
    def _next(self) -> int:
        """The number of a call without gradients, as it has when it is computed again."""
        return self.time + self._unseen if self.step == self.recorder.step else 0

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        self.show(args, more, self.time)
        return 1

    def show(self, args: tuple[object, ...], more: object, call: int) -> None:
        """Tells of the tensors of a call."""
        raise NotImplementedError


class _GivenHook(_WayHook):
    __slots__ = ()

    def show(self, args: tuple[object, ...], more: object, call: int) -> None:
        self.ways.given(self.module, call, given_tensors(args, more))


class _ReturnedHook(_WayHook):
    __slots__ = ()

    def show(self, args: tuple[object, ...], more: object, call: int) -> None:
        self.ways.returned(self.module, call, named_tensors(more))


class _ModelHook(_WayHook):
    """After the whole model."""

    __slots__ = ()

    def __init__(self, recorder: Recorder, ways: Ways) -> None:
        super().__init__(recorder, ways, "")

    def show(self, args: tuple[object, ...], more: object, call: int) -> None:
        self.ways.left(call, named_tensors(more))

"""Where the model's own code takes a value out of the graph: `x.detach()`, `x.data`, `x.argmax()`, `x.item()`.

Each place is looked at once: which parameters the value was computed from. Most cuts are meant, as those of a
straight-through estimator or of a logged figure, and the parameters get their gradient another way. Where they never
get any, a rule can name the line.
"""

from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType

import torch
from torch import Tensor

from gradscope.probes.base import Recorder, Target, owner_and_name
from gradscope.probes.calls import Watcher, from_torch, line_of

_CUTS: dict[str, tuple[object, ...]] = {
    "detach": (Tensor.detach, torch.detach, Tensor.detach_, torch.detach_),
    "data": (Tensor.data.__get__,),  # type: ignore[attr-defined]
    "argmax": (Tensor.argmax, torch.argmax, Tensor.argmin, torch.argmin),
    "argsort": (Tensor.argsort, torch.argsort),
    "item": (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__),
}
_MOST_NODES = 100_000  # of the graph behind one value


class Cuts:
    """The places at which the model cuts its own graph, as far as a recorded step has come through them."""

    def __init__(self, recorder: Recorder, target: Target) -> None:
        self.recorder = recorder
        self._target = target
        self._seen: set[tuple[CodeType, int]] = set()

    def watchers(self) -> dict[Callable[..., object], Watcher]:
        """Who is told of each function that returns something without a gradient."""
        return {function: _Cut(self, name) for name, functions in _CUTS.items() for function in functions}  # type: ignore[misc]

    def at(self, name: str, frame: FrameType, value: Tensor) -> None:
        """`value` is about to leave the graph."""
        place = frame.f_code, frame.f_lasti
        if place in self._seen or value.grad_fn is None or from_torch(frame):
            return
        self._seen.add(place)
        owner_of = {id(p): owner_and_name(path)[0] for path, p in self._target.parameters.items()}
        modules = {owner_of[id(leaf)] for leaf in _leaves(value) if id(leaf) in owner_of}
        if modules:
            self.recorder.cut(name, frame.f_code.co_filename, line_of(*place), frozenset(modules))


class _Cut:
    """Calls of one such function."""

    def __init__(self, cuts: Cuts, name: str) -> None:
        self.cuts = cuts
        self.name = name

    def before(self, owner: str, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """What is cut off is the first argument."""
        value = args[0] if args else kwargs.get("input")
        if isinstance(value, Tensor):
            self.cuts.at(self.name, frame, value)

    def after(self, noted: object, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> None:
        """Nothing more to do."""


def _leaves(value: Tensor) -> Iterator[Tensor]:
    """The parameters, and other leaves, that a value was computed from."""
    waiting = [value.grad_fn]
    seen = set(waiting)
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        if node is None:
            continue
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            yield leaf
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)

"""Which bounded activations are gates: their output multiplies another activation.

A gate is meant to reach its bounds: a forget gate that is 1 keeps a state, as it should. nn.LSTM's gates are not judged
by their saturation either, so neither are those of a cell that somebody has written out. A sigmoid is followed through
what only rearranges or shifts it (`chunk`, indexing, `1 - z`) to the product.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import torch
from torch import Tensor
from torch.nn import functional as F

from gradscope.probes.base import Recorder
from gradscope.probes.calls import Watcher
from gradscope.records import Statistic

_T = Tensor
_PRODUCTS: tuple[Callable[..., object], ...] = (
    torch.mul, torch.multiply, torch.addcmul, torch.lerp, _T.mul, _T.mul_, _T.multiply, _T.__mul__, _T.__rmul__,
    _T.__imul__, _T.addcmul, _T.lerp,
)  # fmt: skip
_REARRANGEMENTS: tuple[Callable[..., object], ...] = (
    torch.add, torch.sub, torch.rsub, torch.neg, _T.add, _T.sub, _T.neg, _T.__add__, _T.__radd__, _T.__sub__,
    _T.__rsub__, _T.__neg__, torch.chunk, torch.split, torch.unbind, torch.unsqueeze, torch.squeeze, torch.reshape,
    torch.transpose, torch.permute, torch.flatten, _T.chunk, _T.split, _T.unbind, _T.unsqueeze, _T.squeeze, _T.reshape,
    _T.transpose, _T.permute, _T.flatten, _T.view, _T.expand, _T.expand_as, _T.__getitem__, _T.__iter__, _T.to,
    _T.float, _T.contiguous, F.dropout,
)  # fmt: skip


class Gates:
    """The outputs of bounded activations in the running step, and what was made of them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._followed: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def watchers(self) -> dict[Callable[..., object], Watcher]:
        """Who is told of products and of rearrangements."""
        return {**dict.fromkeys(_REARRANGEMENTS, _Rearrangement(self)), **dict.fromkeys(_PRODUCTS, _Product(self))}

    def begin(self) -> None:
        """A step begins."""
        self._followed.clear()

    def end(self) -> None:
        """A step is over."""
        self._followed.clear()

    def follow(self, site: int, y: Tensor) -> None:
        """`y` comes from the bounded activation at `site`."""
        self._followed[id(y)] = weakref.ref(y), site

    def among(self, args: tuple[object, ...]) -> tuple[int, object] | None:
        """The site that one of `args` comes from, and that one; None if none does."""
        if self._followed:
            for x in args:
                known = self._followed.get(id(x))
                if known is not None and known[0]() is x:
                    return known[1], x
        return None


class _OfFollowed:
    """Calls that are given a followed tensor."""

    def __init__(self, gates: Gates) -> None:
        self.gates = gates

    def before(
        self, owner: str, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[int, object] | None:
        """The site that it comes from, and the tensor."""
        return self.gates.among(args)


class _Product(_OfFollowed):
    """A product of a followed tensor with another activation makes it a gate."""

    def after(self, noted: object, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> None:
        if isinstance(noted, tuple):
            site, gate = noted
            if any(x is not gate and isinstance(x, Tensor) and x.requires_grad and not x.is_leaf for x in args):
                self.gates.recorder.withhold(site, Statistic.SATURATED_FRACTION)
            elif isinstance(result, Tensor):
                self.gates.follow(site, result)


class _Rearrangement(_OfFollowed):
    """What is made of a followed tensor alone is followed."""

    def after(self, noted: object, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> None:
        if isinstance(noted, tuple):
            site, x = noted
            if not any(y is not x and isinstance(y, Tensor) and y.requires_grad for y in args):
                for part in _tensors(result):
                    self.gates.follow(site, part)


def _tensors(value: object) -> Iterator[Tensor]:
    for item in value if isinstance(value, tuple | list) else (value,):
        if isinstance(item, Tensor):
            yield item

"""The batches of a trial: a pair, a function, or something that is gone through and begun anew at its end.

Given tensors are copied for each step, so that neither a model that works in place nor a backward changes the caller's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradscope.errors import UsageError
from gradscope.tracebacks import during
from gradscope.trial.signatures import a, accepts, first_parameter, takes


class Batches:
    """Where the batches come from.

    Attributes:
        given: A batch, a function of nothing or of the step that returns a batch or an iterable, or an iterable.
        quoted: How the user wrote it.
        pairs: Whether a batch must be (inputs, targets); else it is what the loss takes.
        device: Where they are needed; None for where they are.
    """

    def __init__(self, given: object, quoted: str, *, pairs: bool, device: torch.device | None) -> None:
        self.given = given
        self.quoted = quoted
        self.pairs = pairs
        self.device = device
        self._source: Iterable[object] | None = None
        self._iterator: Iterator[object] | None = None
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self._function = self._as_function(given) if callable(given) else None
        if self._function is None and not self._is_batch(given):
            self._begin(given)

    def at(self, step: int) -> object:
        """The batch of `step`; the steps come one after the other.

        Raises:
            UsageError: There is none, it is none, or it is empty.
        """
        __tracebackhide__ = True
        with during(f"the batch of step {step}"):
            batch = self._next(step)
        self._require(batch, step)
        return on_device(batch, self.device)

    def close(self) -> None:
        """Ends what was begun, and puts a loader's own generators of random numbers back."""
        self._iterator = None
        for generator, state in self._generators:
            generator.set_state(state)

    def _next(self, step: int) -> object:
        __tracebackhide__ = True
        if self._source is None:
            batch = self.given if self._function is None else self._call(self._function, step)
            if self._function is None or self._is_batch(batch) or not _is_iterable(batch):
                return batch
            self._begin(batch)
        return self._following(step)

    def _call(self, function: Callable[[int], object], step: int) -> object:
        __tracebackhide__ = True
        try:
            return function(step)
        except StopIteration:
            raise UsageError(f"{self.quoted} has no batch for step {step}: it raised StopIteration.") from None

    def _following(self, step: int) -> object:
        __tracebackhide__ = True
        for begun_anew in (False, True):
            if self._iterator is None:
                self._iterator = iter(self._anew(step) if begun_anew else self._source or ())
            try:
                return next(self._iterator)
            except StopIteration:
                self._iterator = None
            if step == 0:
                break
        once = "; an iterator can be gone through only once" if isinstance(self._source, Iterator) else ""
        way_out = "give a list, a DataLoader or a function."
        if step == 0:
            raise UsageError(f"{self.quoted} is empty: it gives no batch{f'{once}: {way_out}' if once else '.'}")
        raise UsageError(f"{self.quoted} has run out after {step} batches and cannot be begun anew; {way_out}")

    def _anew(self, step: int) -> Iterable[object]:
        """What is gone through again; a function that has returned it, such as a generator's, is asked again."""
        __tracebackhide__ = True
        again = self._call(self._function, step) if self._function is not None else self._source
        return again if _is_iterable(again) else ()

    def _begin(self, source: object) -> None:
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            raise UsageError(
                f"{self.quoted} is a Dataset, which gives samples; wrap it: `DataLoader(…, batch_size=8)`."
            )
        if not _is_iterable(source):
            raise UsageError(
                f"{self.quoted} is {a(source)}; give (inputs, targets), a function that returns them, or an iterable"
                " such as a DataLoader."
            )
        self._source = source
        self._generators = [(generator, generator.get_state()) for generator in _generators(source)]

    def _is_batch(self, value: object) -> bool:
        """Whether `value` itself is meant as a batch, right or wrong, and not as several."""
        if isinstance(value, list):
            whole = all(isinstance(item, tuple if self.pairs else tuple | Mapping) for item in value)
            return not whole and (_is_pair(value) or not self.pairs)
        return isinstance(value, Tensor | tuple | list | Mapping | str | int | float | None)

    def _require(self, batch: object, step: int) -> None:
        if not self.pairs:
            parts = batch
        elif _is_pair(batch):
            parts = batch[0]
            if isinstance(batch[1], Tensor) and not batch[1].numel():
                raise UsageError(f"{self.quoted} has empty targets in step {step}: {_shape(batch[1])}.")
        else:
            size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise UsageError(
                f"{self.quoted} must give a pair, (inputs, targets), it gives {a(batch)}{size}; another batch needs a"
                " loss of (model, batch)."
            )
        if any(t.is_meta for t in _tensors(parts)):
            raise UsageError(f"{self.quoted} is on torch's meta device in step {step}, where nothing has a value.")
        empty = next((t for t in _tensors(parts) if not t.numel()), None)
        if empty is not None:
            raise UsageError(f"{self.quoted} is empty in step {step}: it has a tensor of shape {_shape(empty)}.")

    def _as_function(self, given: Callable[..., object]) -> Callable[[int], object]:
        first = first_parameter(given)
        if first is not None and first.name == "step" and accepts(given, 0):
            return given
        if accepts(given):
            return lambda step: given()
        if accepts(given, 0):
            return given
        raise UsageError(f"{self.quoted} takes {takes(given)}; it is called with nothing, or with the step.")


def on_device(value: object, device: torch.device | None) -> object:
    """A copy of `value` with its tensors on `device`."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            return value if device is None else value.to(device)
        moved = value.detach().to(device) if device is not None else value.detach()
        copy = moved if moved.device != value.device else moved.clone()
        return copy.requires_grad_() if value.requires_grad else copy
    if not isinstance(value, tuple | list | dict) or isinstance(value, PackedSequence):
        to = getattr(value, "to", None)  # batches of other libraries
        return to(device) if callable(to) and device is not None else value
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    items = [on_device(item, device) for item in value]
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(items)
    return tuple(items) if isinstance(value, tuple) else items


def _is_pair(value: object) -> TypeGuard[tuple[object, object] | list[object]]:
    return isinstance(value, tuple | list) and len(value) == 2


def _is_iterable(value: object) -> TypeGuard[Iterable[object]]:
    return hasattr(value, "__iter__") or (hasattr(value, "__getitem__") and hasattr(value, "__len__"))


def _tensors(parts: object) -> Iterator[Tensor]:
    """The tensors of a batch that can be empty by mistake only: not those deep inside of it."""
    if isinstance(parts, Mapping):
        parts = list(parts.values())
    for part in parts if isinstance(parts, tuple | list) else (parts,):
        if isinstance(part, Tensor):
            yield part


def _generators(source: object) -> Iterator[torch.Generator]:
    """The generators of random numbers that a loader and its samplers hold."""
    batch_sampler = getattr(source, "batch_sampler", None)
    owners = (source, getattr(source, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners] if isinstance(source, DataLoader) else []
    yield from {id(one): one for one in found if isinstance(one, torch.Generator)}.values()


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))

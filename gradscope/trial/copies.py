"""A copy of the caller's model, with the optimizers and the loss that belong to it: what a trial may train."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """What was copied together: what two of the originals share, their copies share.

    Attributes:
        model: Of the model.
        loss: Of the loss, if that is a module; else the loss itself.
        optimizers: With their state, for the parameters of `model`.
    """

    model: nn.Module
    loss: Callable[..., object]
    optimizers: tuple[Optimizer, ...]


def copied(model: nn.Module, loss: Callable[..., object], optimizers: Sequence[Optimizer]) -> Copies:
    """Copies all that a training changes. Raises whatever an object raises that cannot be copied."""
    memo: dict[int, object] = {id(tensor): _bare(tensor) for tensor in _uncopyable(model)}
    with torch.no_grad():  # the copies of a scripted model's parameters would be computed tensors
        twin = copy.deepcopy(model, memo)
    for theirs, ours in zip(model.parameters(), twin.parameters(), strict=True):
        if ours.requires_grad is not theirs.requires_grad:
            ours.requires_grad_(theirs.requires_grad)
    return Copies(
        model=twin,
        loss=copy.deepcopy(loss, memo) if isinstance(loss, nn.Module) else loss,
        optimizers=tuple(_copied_optimizer(one, memo) for one in optimizers),
    )


def _uncopyable(model: nn.Module) -> Iterator[Tensor]:
    """The tensors of a model that torch refuses to copy: computed ones, that a module has kept, and lazy buffers."""
    yield from (buffer for buffer in model.buffers() if is_lazy(buffer))
    for module in model.modules():
        kept = [vars(module).values(), *(v for v in vars(module).values() if isinstance(v, list | tuple))]
        kept += [v.values() for v in vars(module).values() if isinstance(v, dict)]
        yield from (value for values in kept for value in _computed(values))


def _computed(values: Iterable[object]) -> Iterator[Tensor]:
    return (value for value in values if isinstance(value, Tensor) and value.grad_fn is not None)


def _bare(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        return UninitializedBuffer(device=tensor.device)  # type: ignore[call-arg]
    return tensor.detach().clone()


def _copied_optimizer(optimizer: Optimizer, memo: dict[int, object]) -> Optimizer:
    found = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():  # of its own attributes, such as those of LBFGS, torch's copy has none
        if name not in vars(found) and not callable(value):
            setattr(found, name, copy.deepcopy(value, memo))
    return found

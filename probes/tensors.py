"""The tensors inside what a module takes and returns: the one place where nested structures are walked.

A structure belongs to the model. Looking at it must not run the model's code, which may raise, take long, draw random
numbers or never end. So built-in containers are read as what they are, whatever their subclasses have made of
`__iter__` or `items`; mappings that are no dictionaries, properties, and objects of other kinds are left alone.
"""

from collections import UserDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from types import MemberDescriptorType
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

_Kind = TypeVar("_Kind")
_SPARSE = frozenset({torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})
_MOST_LEVELS = 8  # deeper ones are not followed
_MOST_VALUES = 4096  # nor more than these: a structure may contain itself


def named_tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating-point or complex tensors in `value` with their paths: "" for a bare one, "1.0" in a nest.

    Tuples, lists, dictionaries, dataclasses and packed sequences are followed, other objects are not.
    """
    waiting = [(name, value, _MOST_LEVELS)]
    seen = 0
    while waiting and seen < _MOST_VALUES:
        seen += 1
        name, value, levels = waiting.pop()
        if _is(value, Tensor):
            if has_numbers(value):
                yield name, value
        elif levels:
            before = f"{name}." if name else ""
            waiting += [(f"{before}{key}", part, levels - 1) for key, part in reversed(_parts(value))]


def has_numbers(tensor: Tensor) -> bool:
    """Whether there is something to measure: floating-point or complex numbers that are really there.

    Reading a tensor whose memory was freed would end the process.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:  # whatever it is, it decides what is in it
        return hasattr(tensor, "_local_tensor") or tensor.layout is torch.jagged
    if tensor.layout is torch.strided:
        return not tensor.is_nested and (tensor.data_ptr() != 0 or (tensor.numel() == 0 and not tensor.is_meta))
    return tensor.layout in _SPARSE and not tensor.is_meta


def _is(value: object, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """What `isinstance` says, without asking the value itself what it wants to be."""
    return issubclass(type(value), kind)


def _parts(value: object) -> Sequence[tuple[str, object]]:
    """What a container holds, by name; nothing of what is no container."""
    if _is(value, PackedSequence):
        return [("data", tuple.__getitem__(value, 0))]
    if _is(value, tuple):
        return [(str(index), item) for index, item in enumerate(tuple.__getitem__(value, slice(_MOST_VALUES)))]
    if _is(value, list):
        return [(str(index), item) for index, item in enumerate(list.__getitem__(value, slice(_MOST_VALUES)))]
    if _is(value, UserDict):
        value = _attributes(value).get("data")
    if _is(value, dict):
        try:
            return [(str(key), item) for key, item in islice(dict.items(value), _MOST_VALUES)]
        except Exception:  # a key that will not be told
            return []
    if hasattr(type(value), "__dataclass_fields__"):
        held, cls = _attributes(value), type(value)
        return [(f.name, held[f.name]) for f in fields(cls) if f.name in held]  # type: ignore[arg-type]
    return []


def _attributes(value: object) -> dict[str, object]:
    """What an object holds, in its dictionary or in slots."""
    held: dict[str, object] = {}
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if type(member) is MemberDescriptorType:
                try:
                    held[name] = member.__get__(value)
                except AttributeError:
                    continue  # never set
    with suppress(AttributeError):  # it has slots alone
        held |= object.__getattribute__(value, "__dict__")
    return held


def given_tensors(args: tuple[object, ...], kwargs: object) -> Iterator[tuple[str, Tensor]]:
    """The tensors among a call's arguments; a single positional argument has the path of its value alone."""
    if len(args) == 1 and not kwargs:
        yield from named_tensors(args[0])
    else:
        yield from named_tensors(args)
        yield from named_tensors(kwargs)


def time_axis(module: nn.Module, name: str, tensor: Tensor, named: int | None = None) -> int | None:
    """The axis of the sequence in a tensor that `module` takes or returns at the path `name`; None if it has none.

    That of the sequences of a recurrent layer is known; of any other module's tensors it is the one that the user has
    `named`.
    """
    if not isinstance(module, nn.RNNBase):
        return None if named is None or not -tensor.ndim <= named < tensor.ndim else named % tensor.ndim
    if name not in ("", "0", "input") or tensor.ndim not in (2, 3):
        return None
    return 1 if module.batch_first and tensor.ndim == 3 else 0

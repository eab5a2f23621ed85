"""The tensors inside what a module takes and returns: the one place where nested structures are walked."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

_MAX_NESTING = 8  # deeper ones are not followed: a structure may contain itself


def named_tensors(value: object, name: str = "", nesting: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The floating-point or complex tensors in `value` with their paths: "" for a bare one, "1.0" in a nest.

    Tuples, lists, mappings, dataclasses and packed sequences are followed, other objects are not.
    """
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield name, value
        return
    if nesting == _MAX_NESTING:
        return
    items: Iterator[tuple[str, object]]
    if isinstance(value, PackedSequence):
        items = iter([("data", value.data)])
    elif isinstance(value, Mapping):
        items = ((str(key), item) for key, item in value.items())
    elif isinstance(value, tuple | list):
        items = ((str(index), item) for index, item in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name, None)) for f in fields(value))
    else:
        return
    for key, item in items:
        yield from named_tensors(item, f"{name}.{key}" if name else key, nesting + 1)


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

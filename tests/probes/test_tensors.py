"""The one place where nested outputs are walked."""

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from gradscope.probes.tensors import given_tensors, has_numbers, named_tensors, time_axis

a, b = torch.zeros(1), torch.zeros(2)
Pair = namedtuple("Pair", "left right")


@dataclass
class Out:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    note: str = "x"


NESTS = {
    "a tensor": (a, {"": a}),
    "a tuple": ((a, b), {"0": a, "1": b}),
    "an LSTM's": ((a, (b, a)), {"0": a, "1.0": b, "1.1": a}),
    "a dict": ({"logits": a, "aux": {"x": b}}, {"logits": a, "aux.x": b}),
    "an OrderedDict": (OrderedDict(k=a), {"k": a}),
    "a named tuple": (Pair(a, b), {"0": a, "1": b}),
    "a dataclass": (Out(a, (b,)), {"logits": a, "hidden.0": b}),
    "integers apart": ((a, torch.zeros(1, dtype=torch.long), 3, None, "s"), {"0": a}),
    "nothing": (None, {}),
}


@pytest.mark.parametrize(("value", "wanted"), NESTS.values(), ids=NESTS)
def test_every_tensor_is_found_with_its_path(value, wanted):
    found = dict(named_tensors(value))
    assert list(found) == list(wanted)
    assert all(found[path] is wanted[path] for path in wanted)


def test_a_packed_sequence_has_data():
    packed = pack_padded_sequence(torch.randn(3, 4, 5), [4, 2, 1], batch_first=True)
    assert [name for name, _ in named_tensors((packed, a))] == ["0.data", "1"]


class Loud(dict):
    def __getitem__(self, key):
        raise AssertionError("its code ran")

    items = values = keys = __iter__ = __getitem__


class Shy(list):
    def __iter__(self):
        raise AssertionError("its code ran")

    __len__ = __bool__ = __iter__


class Lazy(Mapping):
    def __getitem__(self, key):
        raise AssertionError("its code ran")

    __iter__ = __len__ = __getitem__


@dataclass
class Half:
    x: torch.Tensor
    never: torch.Tensor

    def __init__(self):
        self.x = a

    def __getattr__(self, name):
        raise AssertionError("its code ran")


@dataclass(slots=True)
class Slotted:
    x: torch.Tensor
    y: int


class Nameless:
    def __str__(self):
        raise ValueError("no name")

    __repr__ = __str__


CODED = {
    "a dictionary": (Loud(x=a), {"x": a}),
    "a list": (Shy([a]), {"0": a}),
    "a mapping that is none": (Lazy(), {}),
    "a UserDict": (UserDict(x=a), {"x": a}),
    "a dataclass that is not complete": (Half(), {"x": a}),
    "a dataclass with slots": (Slotted(a, 3), {"x": a}),
    "a class": (Slotted, {}),
    "a key without a name": ({Nameless(): a}, {}),
    "tensors without data": (torch.zeros(2, device="meta"), {}),
}


@pytest.mark.parametrize(("value", "wanted"), CODED.values(), ids=CODED)
def test_looking_runs_nobodys_code(value, wanted):
    found = dict(named_tensors((value, b)))
    wanted = {f"0.{path}": tensor for path, tensor in wanted.items()} | {"1": b}
    assert list(found) == list(wanted)
    assert all(found[path] is wanted[path] for path in wanted)


def _freed() -> torch.Tensor:
    x = torch.ones(4)
    x.untyped_storage().resize_(0)
    return x


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR tensor support")
def test_only_what_can_be_read_has_numbers():
    parts = [torch.ones(2), torch.ones(3)]
    measurable = [a, nn.Parameter(a), torch.zeros(0), torch.ones(2, dtype=torch.complex64), torch.eye(3).to_sparse()]
    measurable += [torch.eye(3).to_sparse_csr(), torch.nested.nested_tensor(parts, layout=torch.jagged)]
    others = [torch.ones(2, dtype=torch.long), torch.ones(2, device="meta"), torch.zeros(0, device="meta"), _freed()]
    others += [torch.nested.nested_tensor(parts, layout=torch.strided), torch.ones(2, 2).to_mkldnn()]
    assert [has_numbers(x) for x in measurable] == [True] * len(measurable)
    assert [has_numbers(x) for x in others] == [False] * len(others)


def test_more_than_anybody_returns_is_not_looked_through():
    assert len(list(named_tensors([a] * 10_000))) < 5000
    within = [a]
    within += [within] * 50
    assert len(list(named_tensors(within))) < 5000
    deep = a
    for _ in range(100):
        deep = [deep]
    assert list(named_tensors((deep, a))) == [("1", a)]


def test_a_structure_that_contains_itself_ends():
    loop: list[object] = [a]
    loop.append(loop)
    assert 1 <= len(list(named_tensors(loop))) < 20


def test_arguments_are_named_by_place_and_keyword():
    assert [name for name, _ in given_tensors((a,), {})] == [""]
    assert [name for name, _ in given_tensors((a, b), {})] == ["0", "1"]
    assert [name for name, _ in given_tensors((a,), {"mask": b})] == ["0", "mask"]
    assert [name for name, _ in given_tensors((), {"x": b})] == ["x"]


def test_only_sequences_of_recurrent_layers_have_a_time_axis():
    first, second = nn.GRU(2, 3, batch_first=True), nn.LSTM(2, 3)
    x = torch.zeros(4, 5, 2)
    assert (time_axis(first, "0", x), time_axis(second, "", x)) == (1, 0)
    assert time_axis(first, "", x[0]) == 0, "unbatched"
    assert time_axis(first, "1", x) is None, "the last state"
    assert time_axis(nn.Linear(2, 2), "", x) is None


def test_a_named_axis_is_that_of_every_tensor_that_has_it():
    block, x = nn.TransformerEncoderLayer(4, 1), torch.zeros(2, 5, 4)
    assert [time_axis(block, "", x, axis) for axis in (0, 1, 2, -1, -3)] == [0, 1, 2, 2, 0]
    assert [time_axis(block, "", x, axis) for axis in (3, -4)] == [None, None]
    assert time_axis(block, "mask", x[0, 0], 1) is None
    assert time_axis(block, "", torch.zeros(()), 0) is None
    assert time_axis(nn.GRU(4, 3), "", x, 1) == 0, "what is known is not asked"
    assert time_axis(nn.GRU(4, 3), "1", x, 1) is None

from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from gradscope.errors import UsageError
from gradscope.trial.batches import Batches, on_device

X, Y = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])


def batches(given, *, pairs=True):
    return Batches(given, "`batch=that`", pairs=pairs, device=None)


def first_numbers(given, steps, *, pairs=True):
    source = batches(given, pairs=pairs)
    return [float(source.at(step)[0].flatten()[0]) for step in range(steps)]


def by_step(step):
    return torch.full((2, 1), float(step)), Y


class Loader:
    """Any class that can be gone through."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return ((torch.full((2, 1), float(value)), Y) for value in self.values)


def endless():
    step = 0
    while True:
        yield by_step(step)
        step += 1


FORMS = {
    "a pair": ((torch.ones(2, 1), Y), [1, 1, 1]),
    "a list of two tensors": ([torch.ones(2, 1), Y], [1, 1, 1]),
    "a function": (lambda: (torch.ones(2, 1), Y), [1, 1, 1]),
    "a function with a default": (lambda size=2: (torch.full((size, 1), 5.0), Y), [5, 5, 5]),
    "a function of the step": (by_step, [0, 1, 2]),
    "a function of something": (lambda i: by_step(i), [0, 1, 2]),
    "a function of the step by default": (lambda step=9: by_step(step), [0, 1, 2]),
    "a partial function": (partial(by_step, step=4), [4, 4, 4]),
    "a list of pairs": ([by_step(3), by_step(4)], [3, 4, 3]),
    "a list of one pair": ([by_step(3)], [3, 3, 3]),
    "what begins anew": (Loader([7, 8]), [7, 8, 7]),
    "a function that returns a loader": (lambda: Loader([7, 8]), [7, 8, 7]),
    "a generator function": (endless, [0, 1, 2]),
    "a generator function that ends": (lambda: iter([by_step(4), by_step(5)]), [4, 5, 4]),
    "a generator": (endless(), [0, 1, 2]),
}


@pytest.mark.parametrize(("given", "expected"), FORMS.values(), ids=FORMS)
def test_batches_of_every_form(given, expected):
    assert first_numbers(given, 3) == expected


def test_for_a_loss_of_the_model_a_batch_is_what_it_is():
    tensor = torch.ones(3, 2)
    assert batches(tensor, pairs=False).at(0).tolist() == tensor.tolist()
    assert batches({"x": tensor}, pairs=False).at(1)["x"].tolist() == tensor.tolist()
    assert len(batches((tensor, tensor, tensor), pairs=False).at(0)) == 3
    source = batches([(tensor * 2,), (tensor * 3,)], pairs=False)
    assert [float(source.at(step)[0].mean()) for step in range(3)] == [2, 3, 2]
    source = batches([{"x": tensor * 2}, {"x": tensor * 3}], pairs=False)
    assert [float(source.at(step)["x"].mean()) for step in range(3)] == [2, 3, 2]


def no_more():
    raise StopIteration


WRONG = {
    "three": ((X, Y, Y), "must give a pair, (inputs, targets), it gives a tuple of 3; another batch needs a loss of"),
    "three of a function": (lambda: (X, Y, Y), "must give a pair, (inputs, targets), it gives a tuple of 3;"),
    "a tensor": (X, "must give a pair, (inputs, targets), it gives a Tensor;"),
    "a mapping": ({"x": X}, "must give a pair, (inputs, targets), it gives a dict;"),
    "nothing": (lambda: None, "must give a pair, (inputs, targets), it gives None;"),
    "a word": ("tiny", "must give a pair, (inputs, targets), it gives a str;"),
    "an object": (object(), "is an object; give (inputs, targets), a function that returns them, or an iterable"),
    "a dataset": (TensorDataset(X, Y), "is a Dataset, which gives samples; wrap it: `DataLoader(…, batch_size=8)`."),
    "an empty list": ([], "is empty: it gives no batch."),
    "an empty loader": (Loader([]), "is empty: it gives no batch."),
    "an iterator at its end": (
        iter([]),
        "is empty: it gives no batch; an iterator can be gone through only once: give a list, a DataLoader or a"
        " function.",
    ),
    "no rows": ((torch.ones(0, 4), Y), "is empty in step 0: it has a tensor of shape (0, 4)."),
    "no rows in one of two": (((X, torch.ones(3, 0)), Y), "is empty in step 0: it has a tensor of shape (3, 0)."),
    "no values": ((X.to("meta"), Y), "is on torch's meta device in step 0, where nothing has a value."),
    "no targets": ((X, torch.ones(0)), "has empty targets in step 0: (0,)."),
    "a function that ends": (no_more, "has no batch for step 0: it raised StopIteration."),
    "two arguments": (lambda x, y: None, "takes (x, y); it is called with nothing, or with the step."),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_batch_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        batches(given).at(0)
    assert str(caught.value).startswith(f"`batch=that` {message}")


def test_what_cannot_be_begun_anew_runs_out():
    with pytest.raises(UsageError, match="has run out after 2 batches and cannot be begun anew; give a list"):
        first_numbers(iter([by_step(0), by_step(1)]), 3)


def test_the_caller_s_tensors_stay_as_they_are():
    inputs = torch.ones(2, requires_grad=True)
    source = batches((inputs, Y))
    given, _ = source.at(0)
    given.mul(3).sum().backward()
    given.data.zero_()
    assert inputs.grad is None
    assert inputs.tolist() == [1, 1]
    assert source.at(1)[0].tolist() == [1, 1]


def test_tensors_made_in_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        inputs = torch.ones(2)
    weight = torch.ones(2, requires_grad=True)
    (on_device(inputs, None) * weight).sum().backward()
    assert weight.grad.tolist() == [1, 1]


def test_a_loader_s_own_generator_is_put_back():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(torch.arange(8.0), torch.arange(8)), shuffle=True, generator=generator)
    seen = []
    for _ in range(2):
        source = batches(loader)
        seen.append([float(source.at(step)[0]) for step in range(12)])
        source.close()
    assert seen[0] == seen[1]
    assert generator.initial_seed() == 3
    assert generator.get_state().equal(torch.Generator().manual_seed(3).get_state())


def test_structures_keep_their_types():
    pair = namedtuple("pair", "a b")
    packed = pack_sequence([torch.ones(2)])
    moved = on_device([pair(X, 1), {"x": (X,)}, packed, np.ones(2), None], torch.device("cpu"))
    assert isinstance(moved[0], pair)
    assert moved[0].a is not X
    assert moved[0].a.equal(X)
    assert moved[1]["x"][0].equal(X)
    assert moved[2].data.equal(packed.data)
    assert isinstance(moved[3], np.ndarray)


def test_what_a_graph_has_made_keeps_it():
    weight = torch.ones(2, requires_grad=True)
    on_device((weight * 2,), None)[0].sum().backward()
    assert weight.grad.tolist() == [2, 2]

"""The onlooker in this process; unmodified scripts are in tests/e2e/test_attach_script.py."""

import copy

import pytest
import torch
from torch import nn

from gradscope.onlooker import Onlooker


@pytest.fixture
def onlooker():
    one = Onlooker(out=None, every=1)
    one.begin()
    yield one
    one.end(None)


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_everything_is_put_back():
    kept = (
        torch.optim.Optimizer.__init__,
        torch.compile,
        torch.autograd.backward,
        torch.jit._recursive.create_script_module,
    )
    watching = Onlooker(out=None, every=1)
    watching.begin()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert hooks_of(model) == 4
    train(model, optimizer)
    waits = net()
    other = torch.optim.SGD(waits.parameters(), lr=0.1)
    watching.end(None)
    assert kept == (
        torch.optim.Optimizer.__init__,
        torch.compile,
        torch.autograd.backward,
        torch.jit._recursive.create_script_module,
    )
    assert hooks_of(model) == hooks_of(waits) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert other.param_groups


def test_the_first_call_is_recorded_whole(onlooker):
    model = net()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    onlooker.end(None)
    (root,) = onlooker.roots
    assert len(root.trace.steps) == 3
    sites, rms = root.trace.by_depth("output", "rms")
    assert [site.module for site in sites] == ["0", "1", "2"]
    assert rms.shape == (3, 3)


def test_an_optimizer_that_comes_later_is_taken_in(onlooker):
    model = net()
    train(model, torch.optim.SGD(model[0].parameters(), lr=0.1))
    late = torch.optim.Adam(model[2].parameters())
    train(model, late)
    onlooker.end(None)
    (root,) = onlooker.roots
    assert [one["type"] for one in root.trace.meta["optimizers"]] == ["SGD", "Adam"]


def test_another_optimizer_s_step_does_not_hurry_who_waits(onlooker):
    model, later = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer)
    of_later = torch.optim.SGD(later.parameters(), lr=0.1)
    train(model, optimizer)
    assert len(onlooker.roots) == 1
    train(later, of_later)
    assert [root.name for root in onlooker.roots] == ["model", "model2"]
    assert onlooker.notes == []


def test_evaluation_does_not_begin_it(onlooker):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        model(torch.ones(1, 3))
    assert onlooker.roots == []
    train(model, optimizer, 1)
    assert len(onlooker.roots) == 1


def test_a_copy_does_not_wait(onlooker):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = copy.deepcopy(model)
    average(torch.ones(1, 3))
    assert onlooker.roots == []
    assert optimizer.param_groups


def test_a_loop_by_hand_is_found_at_its_first_backward(onlooker):
    model = net()
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    onlooker.end(None)
    (root,) = onlooker.roots
    assert len(root.trace.steps) == 2
    assert "the first step came before it could be recorded" in onlooker.notes[0]


def test_a_model_that_is_replaced_is_let_go(onlooker):
    for _ in range(2):
        model = net()
        train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    first, second = onlooker.roots
    assert first.scope is None
    assert second.scope is not None
    assert len(first.trace.steps) == 3


def test_what_fails_is_noted_and_not_raised(onlooker, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("gradscope.onlooker.attach", fail)
    model = net()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert onlooker.notes == ["the recording failed: RuntimeError: out of luck"]


def test_scripting_finds_no_hooks(onlooker):
    model = net()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
    before = hooks_of(model)
    scripted = torch.jit._recursive.create_script_module(model, torch.jit._recursive.infer_methods_to_compile)
    assert torch.equal(scripted(torch.ones(1, 3)), model(torch.ones(1, 3)))
    assert hooks_of(model) == before > 0


def test_gradients_of_tensors_without_a_module_are_looked_at_for_a_while(onlooker):
    weight = torch.zeros(3, requires_grad=True)
    watched = torch.autograd.backward
    for _ in range(30):
        weight.sum().backward()
    assert onlooker.strange_backwards == 20
    assert torch.autograd.backward is not watched  # nobody looks any more
    assert onlooker.roots == []

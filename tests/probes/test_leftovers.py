"""What earlier steps have left in .grad, in the loops that clear it at different times, and in those that do not."""

import itertools
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.probes import Parameters

STEPS = 6


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def shares(scope):
    """carried_fraction of (step, parameter)."""
    trace = scope.trace
    return trace.statistics["carried_fraction"][:, trace.columns("weight_grad")]


def train(*, cleared, set_to_none=True, micro=1, attached=True, every=1, steps=STEPS, **settings):
    """What was carried over, and for each step what ‖.grad‖ of the first parameter was before and after backward."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, **settings)
    given = optimizer if attached else None
    scope = gradscope.attach(model, optimizer=given, probes=[Parameters()], every=every)
    expected = []
    for turn in range(steps * micro):
        first = turn % micro == 0
        if cleared == "before" and first:
            optimizer.zero_grad(set_to_none=set_to_none)
        loss = (model(torch.randn(8, 3)) - 1).square().mean()
        if cleared == "between" and first:
            optimizer.zero_grad(set_to_none=set_to_none)
        grad = model[0].weight.grad
        before = float(grad.norm()) if first and grad is not None else 0.0
        loss.backward()
        expected.append((before, float(model[0].weight.grad.norm())))
        if turn % micro == micro - 1:
            optimizer.step()
        if cleared == "after" and turn % micro == micro - 1:
            optimizer.zero_grad(set_to_none=set_to_none)
    scope.detach()
    return shares(scope), np.array(expected)


@pytest.mark.parametrize(
    ("cleared", "set_to_none", "micro", "attached"),
    list(itertools.product(["before", "between", "after"], [True, False], [1, 3], [True, False])),
)
def test_gradients_that_are_cleared_once_in_each_step_carry_nothing_over(cleared, set_to_none, micro, attached):
    found, _ = train(cleared=cleared, set_to_none=set_to_none, micro=micro, attached=attached)
    assert (found == 0).all()


def test_what_nobody_clears_is_measured_against_what_it_becomes():
    found, expected = train(cleared="never")
    assert (found[1:] > 0).all()
    assert found[:, 0] == pytest.approx(expected[:, 0] / expected[:, 1], rel=1e-5)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "fused Adam"])
def test_it_is_seen_whichever_optimizer_steps(kind):
    model = network()
    made = torch.optim.SGD if kind == "SGD" else torch.optim.Adam
    optimizer = made(model.parameters(), lr=0.01, **({"fused": True} if "fused" in kind else {}))
    scope = gradscope.attach(model, optimizer=optimizer, probes=[Parameters()])
    for _ in range(3):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    assert (shares(scope)[1:] > 0).all()


def test_without_an_optimizer_only_the_first_micro_batch_after_an_update_finds_leftovers():
    found, _ = train(cleared="never", micro=3, attached=False)
    assert np.flatnonzero(found[:, 0]).tolist() == [3, 6, 9, 12, 15]


def test_it_is_seen_where_only_some_steps_are_recorded():
    found, _ = train(cleared="never", every=3, steps=9)
    assert (found[1:] > 0.1).all()


def test_what_is_cleared_before_it_is_applied_is_no_leftover():
    """A generator's loss leaves gradients in the discriminator, whose own step begins by clearing them."""
    critic, maker = network(1), nn.Linear(2, 3)
    optimizer, other = torch.optim.SGD(critic.parameters(), lr=0.01), torch.optim.SGD(maker.parameters(), lr=0.01)
    scope = gradscope.attach(critic, optimizer=optimizer, probes=[Parameters()])
    for _ in range(4):
        optimizer.zero_grad()
        (critic(torch.randn(8, 3)) - critic(maker(torch.randn(8, 2)).detach())).square().mean().backward()
        optimizer.step()
        other.zero_grad()
        critic(maker(torch.randn(8, 2))).mean().backward()
        other.step()
    assert (shares(scope) == 0).all()


def test_a_closure_that_clears_carries_nothing_over():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    scope = gradscope.attach(model, optimizer=optimizer, probes=[Parameters()])
    x = torch.randn(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert (shares(scope) == 0).all()


def test_nobody_holds_the_gradient():
    """Held it would cost its memory; and torch swaps no tensor to which there is a weak reference."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gradscope.attach(model, optimizer=optimizer, probes=[Parameters()])
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    model(torch.randn(8, 3))  # the next step has begun, its leftovers are noted
    held = weakref.ref(model[0].weight.grad)
    assert weakref.getweakrefcount(model[0].weight.grad) == 1
    optimizer.zero_grad()
    assert held() is None

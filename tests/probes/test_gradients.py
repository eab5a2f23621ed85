"""∂L/∂y and ∂L/∂x where hooks are easily wrong; the plain cases are in e2e/test_against_autograd.py."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.probes import Gradients


def norms(scope: gradscope.Scope, module: str, quantity: str) -> list[float]:
    return scope.trace.by_time(module, quantity, "l2_norm")[0].tolist()


def test_the_input_of_the_model_has_a_gradient_where_it_wants_one():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(2, 3, requires_grad=True)
    with gradscope.attach(model) as scope:
        model(x).sum().backward()
    assert norms(scope, "", "input_grad") == [pytest.approx(float(x.grad.norm()))]
    assert norms(scope, "0", "input_grad") == norms(scope, "", "input_grad")
    assert not x._backward_hooks, "a leaf outlives the step, our hook does not"


def test_a_module_that_returns_its_input_has_the_gradient_of_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 1))
    with gradscope.attach(model) as scope:
        model(torch.randn(2, 3)).sum().backward()
    assert norms(scope, "0", "output_grad") == norms(scope, "1", "output_grad") == norms(scope, "2", "input_grad")


def test_in_place_activation_has_the_gradients_before_and_after_it():
    linear, act = nn.Linear(3, 4), nn.ReLU(inplace=True)
    model = nn.Sequential(linear, act)
    x = torch.randn(5, 3)
    with gradscope.attach(model) as scope:
        model(x).square().sum().backward()
    z = linear(x)
    y = torch.relu(z)
    before, after = torch.autograd.grad(y.square().sum(), [z, y])
    assert norms(scope, "0", "output_grad") == norms(scope, "1", "input_grad") == [pytest.approx(float(before.norm()))]
    assert norms(scope, "1", "output_grad") == [pytest.approx(float(after.norm()))]


def test_nothing_is_observed_where_no_gradient_comes():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    with gradscope.attach(model) as scope:
        h = model[1](model[0](torch.randn(2, 3)))
        model[2](h.detach()).sum().backward()
    sites, _ = scope.trace.by_depth("output_grad", "rms")
    assert [site.module for site in sites] == ["2"]


def test_a_gradient_that_is_zero_was_observed():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    with gradscope.attach(model) as scope:
        (0 * model(torch.randn(2, 3))).sum().backward()
    assert norms(scope, "0", "output_grad") == [0.0]
    assert scope.trace.series("0", "output_grad", "zero_fraction")[0] == 1


def test_a_frozen_layer_passes_gradients_through():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    model[1].requires_grad_(False)
    with gradscope.attach(model) as scope:
        model(torch.randn(2, 3)).sum().backward()
    assert norms(scope, "0", "output_grad")[0] > 0
    assert not scope.trace.columns("weight_grad", "1")


def test_a_fused_layer_has_input_gradients_for_each_position():
    lstm = nn.LSTM(3, 4)
    x = torch.randn(6, 2, 3, requires_grad=True)
    with gradscope.attach(lstm, probes=[Gradients()]) as scope:
        lstm(x)[0][-1].sum().backward()
    assert norms(scope, "", "input_grad") == pytest.approx(x.grad.norm(dim=(1, 2)).tolist())


def test_checkpointed_layers_are_counted_once():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(checkpoint(self.block, x, use_reentrant=False))

    model = Checkpointed()
    x = torch.randn(4, 3)
    with gradscope.attach(model) as scope:
        model(x).sum().backward()
    assert scope.trace.by_time("block.0", "output", "numel").tolist() == [[12.0]]
    h = model.block(x)
    (grad,) = torch.autograd.grad(model.head(h).sum(), h)
    assert norms(scope, "block.1", "output_grad") == [pytest.approx(float(grad.norm()))]

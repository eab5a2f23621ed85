"""The gradient profile against gradients taken by hand."""

import math

import numpy as np
import pytest
import torch
from builders import trace_of
from torch import nn

import gradscope
from gradscope.gains import gains


def test_gains_are_the_ratios_that_autograd_gives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1))
    scope = gradscope.attach(model)
    by_hand = {str(i): [] for i in range(1, 5)}
    for _ in range(3):
        x = torch.randn(7, 6)
        model.zero_grad()
        model(x).square().mean().backward()
        scope.step()
        between, y = [], x
        for part in model:
            between.append(y)
            y = part.forward(y)  # past the hooks
        tensors = [*between[1:], y]
        grads = torch.autograd.grad(y.square().mean(), tensors)
        for i in range(1, 5):
            by_hand[str(i)].append(math.log10(float(grads[i - 1].double().norm() / grads[i].double().norm())))
    scope.detach()
    found = gains([scope.trace])
    assert found.keys() == by_hand.keys()  # the first layer is given data, which ask for no gradient
    for module, values in by_hand.items():
        assert found[module] == pytest.approx(float(np.median(values)), abs=1e-5)


def test_several_traces_give_their_mean_and_what_is_not_finite_is_left_out():
    def trace(into, out):
        return trace_of(modules=["a", "b"], input_grad_l2_norm=into, output_grad_l2_norm=out)

    one = trace([[1.0, 0.0], [10.0, np.inf], [100.0, np.nan]], [[1.0, 1.0]] * 3)
    other = trace([[1.0, 1.0]] * 3, [[0.001, 1.0]] * 3)
    assert gains([one]) == {"a": pytest.approx(1.0)}
    assert gains([one, other]) == {"a": pytest.approx(2.0), "b": pytest.approx(0.0)}


def test_a_recurrent_layer_has_a_gain_per_time_step():
    torch.manual_seed(0)
    rnn = nn.RNN(1, 8, batch_first=True)
    nn.init.orthogonal_(rnn.weight_hh_l0, gain=0.5)
    with gradscope.attach(rnn) as scope:
        for _ in range(3):
            rnn(torch.zeros(4, 20, 1))[0][:, -1].square().mean().backward()
            scope.step()
    (recurrence,) = gradscope.recurrences(scope.trace)
    assert gains([scope.trace])["l0 per time step"] == pytest.approx(
        float(np.median(np.log10(recurrence.gain_per_step)))
    )

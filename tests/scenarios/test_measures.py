import math

import numpy as np
import pytest
import torch
from builders import trace_of

from gradscope.records import Statistic
from gradscope.scenarios import measures, models
from gradscope.scope import attach

LINEAR = measures.called("linear")
NAMES = ["linear1", "act1", "linear2", "act2", "net.linear3", "act3"]


def test_the_gain_is_the_factor_of_each_chosen_layer():
    halves = trace_of(modules=NAMES, output_grad_rms=[1, 7, 2, 7, 4, 7], steps=3)
    assert measures.gain_per_layer(halves, LINEAR) == pytest.approx([0.5] * 3)
    assert measures.gradient_decades(halves, LINEAR) == pytest.approx([math.log10(4)] * 3)


def test_a_growing_gradient_loses_less_than_nothing():
    grows = trace_of(modules=NAMES, output_grad_rms=[100, 0, 0, 0, 1, 0])
    assert measures.gain_per_layer(grows, LINEAR)[0] == pytest.approx(10)
    assert measures.gradient_decades(grows, LINEAR)[0] == pytest.approx(-2)


def test_a_gradient_that_does_not_arrive_has_gain_zero():
    gone = trace_of(modules=NAMES, output_grad_rms=[0, 1, 1, 1, 1, 1])
    assert measures.gain_per_layer(gone, LINEAR)[0] == 0
    assert measures.gradient_decades(gone, LINEAR)[0] == math.inf


def test_no_gradient_anywhere_and_one_layer_have_no_gain():
    zeros = trace_of(modules=NAMES, output_grad_rms=[0.0] * 6)
    one = trace_of(modules=["linear1", "act1"], output_grad_rms=[1.0, 1.0])
    for trace in (zeros, one):
        assert np.isnan(measures.gain_per_layer(trace, LINEAR)).all()
        assert np.isnan(measures.gradient_decades(trace, LINEAR)).all()


def test_the_slope_is_the_geometric_mean_over_activations():
    trace = trace_of(modules=NAMES, output_grad_rms=[1.0] * 6, input_grad_rms=[9, 0.1, 9, 0.2, 9, 0.4])
    assert measures.slope(trace, measures.called("act")) == pytest.approx(0.2)
    assert math.isnan(measures.slope(trace, measures.called("norm")))


def test_the_worst_share_is_of_one_module_and_nan_where_there_is_none():
    dead = [[0.1, np.nan, 0.5], [0.1, np.nan, 0.7], [0.1, np.nan, 0.9]]
    trace = trace_of(output_dead_fraction=dead, output_rms=[1, 1, 1])
    assert measures.worst_share(trace, Statistic.DEAD_FRACTION) == pytest.approx(0.7)
    assert math.isnan(measures.worst_share(trace, Statistic.SATURATED_FRACTION))


def test_median_and_mean_pass_over_what_is_not_known():
    values = np.array([np.nan, 1.0, 2.0, 6.0])
    assert measures.median(values) == 2
    assert measures.mean(np.array([np.nan, np.inf, 1.0, 3.0])) == 2
    assert math.isnan(measures.median(np.array([np.nan])))
    assert math.isnan(measures.mean(np.array([np.inf])))


def test_through_time_is_what_a_loop_says():
    torch.manual_seed(0)
    model = models.recurrent("rnn", inputs=2, hidden=6, outputs=1)
    x = torch.randn(4, 9, 2)
    with attach(model) as scope:
        model(x).square().sum().backward()
    found = measures.through_time(scope.trace, "recurrent")
    w_ih, w_hh, b_ih, b_hh = (p for _, p in model.recurrent.named_parameters())
    h, states = torch.zeros(4, 6), []
    for t in range(9):
        h = torch.tanh(x[:, t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
        states.append(h)
    gradients = torch.autograd.grad(model.head(h).square().sum(), states)
    lost = float(gradients[0].norm() / gradients[-1].norm())
    assert found["gain_at_start"] == found["gain_per_time_step"] == pytest.approx(lost ** (1 / 8), rel=1e-4)
    assert found["gradient_decades"] == pytest.approx(-math.log10(lost), rel=1e-4)
    assert found["memory_horizon"] > 0
    assert math.isnan(found["forget_gate"])
    assert math.isnan(found["time_constant"])


@pytest.mark.parametrize(("window", "reached"), {None: 9, 4: 4}.items())
def test_windows_that_get_no_gradient_do_not_count(window, reached):
    model = models.recurrent("gru", inputs=2, hidden=6, outputs=1, window=window)
    with attach(model) as scope:
        model(torch.randn(4, 9, 2)).sum().backward()
    layer, served = measures.recurrence(scope.trace, "recurrent")
    assert layer.window[served].tolist() == [reached]
    assert layer.cut[served].tolist() == [window is not None]


def test_the_end_is_the_last_tenth():
    assert measures.at_end(np.array([9.0] * 18 + [1.0, 3.0])) == 2
    assert measures.at_end(np.array([9.0, np.nan, 1.0])) == 1

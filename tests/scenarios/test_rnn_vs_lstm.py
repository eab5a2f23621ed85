import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradscope.scenarios.rnn_vs_lstm import SCENARIO
from gradscope.scenarios.runner import run

NAMES = [variant.name for variant in SCENARIO.variants]
GATED = ["lstm", "lstm, forget bias 1", "gru"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0, 1], steps=11, settings={"lag": "40"}, directory=tmp_path_factory.mktemp("run"))


def metrics(result, name, seed=0):
    return result.of(SCENARIO.variant(name))[seed].metrics


def test_the_reach_at_the_start_is_what_the_inits_make_it(result):
    for seed in (0, 1):
        start = {name: metrics(result, name, seed)["horizon_at_start"] for name in NAMES}
        assert max(start["rnn, tanh"], start["lstm"], start["gru"]) < 20
        assert 1.5 * start["lstm"] < start["lstm, forget bias 1"] < 60
        assert start["rnn, relu, identity"] > 100
        assert metrics(result, "rnn, relu, growing", seed)["gain_at_start"] == pytest.approx(1.2, rel=0.03)


def test_an_open_gate_has_a_longer_time_constant(result):
    gates = {name: metrics(result, name)["forget_gate"] for name in NAMES}
    assert gates["lstm"] == pytest.approx(0.5, abs=0.03)
    assert gates["lstm, forget bias 1"] == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert math.isnan(gates["rnn, tanh"])
    for name in GATED:
        assert metrics(result, name)["time_constant"] == pytest.approx(-1 / math.log(gates[name]), rel=1e-3)


def test_the_numbers_at_the_start_are_autograds(result):
    """The same RNN as a loop, whose states autograd is asked about."""
    torch.manual_seed(0)
    settings = {**SCENARIO.settings, "lag": 40}
    model = SCENARIO.variant("rnn, tanh").build(settings)
    task = SCENARIO.task(settings)
    inputs, targets = next(task.batches(0))
    w_ih, w_hh, b_ih, b_hh = (p for _, p in model.recurrent.named_parameters())
    h, states = torch.zeros(len(inputs), 32), []
    for x in inputs.unbind(1):
        h = torch.tanh(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
        states.append(h)
    gradients = torch.autograd.grad(task.loss(model.head(h), targets), states)
    rms = np.array([float(g.double().square().mean().sqrt()) for g in gradients])
    measured = metrics(result, "rnn, tanh")
    assert measured["decades_at_start"] == pytest.approx(-math.log10(rms[0] / rms[-1]), rel=1e-3)
    assert measured["gain_at_start"] == pytest.approx((rms[0] / rms[-1]) ** (1 / 39), rel=1e-3)
    below = np.flatnonzero(rms[::-1] / rms[-1] < 1e-3)[0]
    assert below - 1 < measured["horizon_at_start"] <= below


def test_digits_are_the_other_task(tmp_path):
    result = run(SCENARIO, seeds=[0], steps=1, settings={"task": "digits"}, directory=tmp_path)
    found = metrics(result, "gru")
    assert 0 <= found["accuracy"] <= 1
    assert not any(name.startswith("explained") for name in found)


def test_a_short_lag_leaves_open_whether_the_rnn_vanishes(tmp_path):
    result = run(only("rnn, tanh"), seeds=[0], steps=1, settings={"lag": "20"}, directory=tmp_path)
    assert result.scenario.variants[0].expect == frozenset()
    assert SCENARIO.variant("rnn, tanh").under({"task": "adding", "lag": 50}).expect == {"GS201"}


def only(*names):
    return replace(SCENARIO, variants=tuple(SCENARIO.variant(name) for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("lag", [20, 50])
def test_gates_learn_at_every_lag_what_the_rnn_cannot(tmp_path, lag):
    """The default, 100, is trained with five seeds in `test_suite`."""
    cells = only("rnn, tanh", "lstm", "lstm, forget bias 1")
    result = run(cells, seeds=[0], steps=None, settings={"lag": str(lag)}, directory=tmp_path)
    assert result.as_expected
    assert metrics(result, "rnn, tanh")["explained_at_lag"] < 0.5
    for name in ("lstm", "lstm, forget bias 1"):
        assert metrics(result, name)["explained_at_lag"] > 0.9
        assert metrics(result, name)["memory_horizon"] > lag


@pytest.mark.slow
def test_open_gates_learn_digits_pixel_by_pixel(tmp_path):
    cells = only("lstm, forget bias 1")
    result = run(cells, seeds=[0], steps=None, settings={"task": "digits"}, directory=tmp_path)
    assert metrics(result, "lstm, forget bias 1")["accuracy"] > 0.8
    assert result.as_expected

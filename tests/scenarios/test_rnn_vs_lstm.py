import pytest
import torch

from gradscope.scenarios import models
from gradscope.scenarios.rnn_vs_lstm import SCENARIO
from gradscope.scenarios.runner import run


def metrics_of(result):
    return {one.variant: one.metrics for one in result.runs}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0, 1], steps=40, settings={}, directory=tmp_path_factory.mktemp("run"))


def test_it_comes_out_as_expected_in_a_tenth_of_its_steps(result):
    assert result.as_expected


def test_only_open_gates_reach_the_whole_sequence_from_the_start(result):
    for seed in (0, 1):
        start = {v.name: result.of(v)[seed].metrics["horizon_at_start"] for v in SCENARIO.variants}
        assert start["lstm, open gates"] == 40
        assert max(start["rnn"], start["lstm"], start["gru"]) < 25


def test_the_numbers_at_the_start_are_autograds(result):
    torch.manual_seed(0)
    task = SCENARIO.task(SCENARIO.settings)
    model = models.recurrent("rnn", inputs=2, hidden=32, outputs=1)
    inputs, targets = next(task.batches(0))
    projected = model.project(inputs).detach().requires_grad_()
    loss = task.loss(model.head(model.recurrent(projected)[0][:, -1]), targets)
    (gradient,) = torch.autograd.grad(loss, projected)
    rms = gradient.square().mean((0, 2)).sqrt()
    measured = result.of(SCENARIO.variant("rnn"))[0].metrics
    assert measured["gradient_at_first_step"] == pytest.approx(float(rms[0] / rms[-1]), rel=1e-4)
    assert measured["gain_per_time_step"] == pytest.approx(float(rms[0] / rms[-1]) ** (1 / 39), rel=1e-4)


def test_pixels_are_the_other_task(tmp_path):
    result = run(SCENARIO, seeds=[0], steps=1, settings={"task": "pixels", "lag": "50"}, directory=tmp_path)
    assert metrics_of(result)["lstm, open gates"]["horizon_at_start"] == 64
    assert "mse" not in metrics_of(result)["rnn"]


@pytest.mark.slow
def test_gates_learn_what_the_rnn_cannot(tmp_path):
    metrics = metrics_of(run(SCENARIO, seeds=[0], steps=None, settings={}, directory=tmp_path))
    assert metrics["rnn"]["mse"] > 0.12  # always answering 1 has 1/6
    assert all(metrics[name]["mse"] < 0.02 for name in ("lstm", "lstm, open gates", "gru"))
    assert all(metrics[name]["memory_horizon"] == 40 for name in ("lstm", "lstm, open gates", "gru"))

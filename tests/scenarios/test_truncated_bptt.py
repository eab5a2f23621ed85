import numpy as np
import pytest
import torch

from gradscope.records import Quantity, Statistic
from gradscope.scenarios import models
from gradscope.scenarios.runner import run
from gradscope.scenarios.truncated_bptt import SCENARIO
from gradscope.storage import read_trace

WINDOWS = {"window 10": 10, "window 50": 50, "window 100": 100, "full": 150}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0], steps=1, settings={}, directory=tmp_path_factory.mktemp("run"))


def one(result, name):
    (found,) = result.of(SCENARIO.variant(name))
    return found


@pytest.mark.parametrize(("name", "window"), WINDOWS.items())
def test_the_window_is_seen_in_the_trace(result, name, window):
    assert one(result, name).metrics["window"] == window
    assert one(result, name).metrics["cut"] == (name != "full")
    assert one(result, name).metrics["steps_reached"] <= window


@pytest.mark.parametrize(("name", "window"), WINDOWS.items())
def test_no_gradient_is_observed_beyond_the_cut_and_it_has_not_vanished_at_it(result, name, window):
    trace = read_trace(one(result, name).trace)
    (rms,) = trace.by_time("recurrent", Quantity.STATE_GRAD, Statistic.RMS, name="h_l0")
    assert np.flatnonzero(np.isfinite(rms)).tolist() == list(range(150 - window, 150))
    if name == "window 10":
        assert rms[140] > 1e-3 * rms[149]


def test_a_window_changes_the_gradient_and_not_the_answer():
    torch.manual_seed(0)
    x = torch.randn(3, 20, 2)
    answers, gradients = [], []
    for window in (None, 7):
        torch.manual_seed(1)
        model = models.recurrent("lstm", inputs=2, hidden=5, outputs=1, window=window)
        answer = model(x)
        answer.sum().backward()
        answers.append(answer.detach())
        gradients.append(model.recurrent.weight_hh_l0.grad)
    assert torch.allclose(*answers, atol=1e-6)
    assert not torch.allclose(*gradients)

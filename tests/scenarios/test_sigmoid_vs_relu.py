import math

import pytest

from gradscope.scenarios.runner import run
from gradscope.scenarios.sigmoid_vs_relu import SCENARIO


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0], steps=40, settings={}, directory=tmp_path_factory.mktemp("run"))


def metrics(result, name):
    (one,) = result.of(SCENARIO.variant(name))
    return one.metrics


def test_it_comes_out_as_expected_in_a_fifth_of_its_steps(result):
    assert result.as_expected


def test_fifteen_layers_that_halve_leave_the_textbooks_figure(result):
    halving = metrics(result, "tanh, halving")
    assert halving["gain_per_layer"] == pytest.approx(0.5, rel=0.03)
    assert halving["gradient_left"] == pytest.approx(0.5**15, rel=0.5)
    assert halving["gradient_decades"] == pytest.approx(14 * math.log10(2), abs=0.3)  # from the 15th layer to the 1st


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid, default init"])
def test_a_sigmoid_passes_less_than_its_bound(result, name):
    sigmoid = metrics(result, name)
    assert sigmoid["bound_per_activation"] == pytest.approx(0.25)
    assert 0.2 < sigmoid["gain_per_activation"] < 0.25
    assert sigmoid["gradient_left"] < 1e-8


def test_the_default_init_is_worse_by_what_theory_says(result):
    assert metrics(result, "sigmoid, default init")["gain_per_layer"] == pytest.approx(0.0200**0.5, rel=0.03)


@pytest.mark.parametrize("name", ["tanh", "relu", "leaky-relu", "gelu"])
def test_the_healthy_pass_the_gradient_and_learn(result, name):
    healthy = metrics(result, name)
    assert 0.9 < healthy["gain_per_layer"] < 1.2
    assert healthy["accuracy"] > 0.5
    assert math.isnan(healthy["dead"]) is (name in ("tanh", "leaky-relu"))

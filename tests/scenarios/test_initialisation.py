import math

import pytest

from gradscope.scenarios.initialisation import SCENARIO, expected_gain
from gradscope.scenarios.runner import run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0], steps=30, settings={}, directory=tmp_path_factory.mktemp("run"))


def metrics(result, name):
    (one,) = result.of(SCENARIO.variant(name))
    return one.metrics


def test_it_comes_out_as_expected_in_a_fifth_of_its_steps(result):
    assert result.as_expected


RANDOM = [v.name for v in SCENARIO.variants if v.name.split(", ")[1] not in ("zeros", "constant")]


@pytest.mark.parametrize("name", RANDOM)
def test_the_measured_gain_meets_theory(result, name):
    measured = metrics(result, name)
    assert measured["gain_at_start"] == pytest.approx(measured["gain_theory"], rel=0.05)


@pytest.mark.parametrize("name", ["tanh, zeros", "relu, constant"])
def test_equal_units_have_no_theory(result, name):
    assert math.isnan(metrics(result, name)["gain_theory"])


@pytest.mark.parametrize(
    ("init", "gain"), {"he": 1.0, "xavier": 0.5**0.5, "orthogonal": 0.5**0.5, "normal 1": 50**0.5}.items()
)
def test_a_relus_gain_has_a_closed_form(init, gain):
    assert expected_gain("relu", init, depth=10, width=100) == pytest.approx(gain)


def test_one_layer_has_no_gain():
    assert math.isnan(expected_gain("relu", "he", depth=1, width=100))


def test_saturated_and_dead_units_show_in_the_numbers(result):
    assert metrics(result, "tanh, normal 1")["saturated"] > 0.9
    assert metrics(result, "tanh, xavier")["saturated"] < 0.2
    assert metrics(result, "relu, zeros")["dead"] == 1

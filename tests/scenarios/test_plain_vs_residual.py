import pytest

from gradscope import theory
from gradscope.scenarios.plain_vs_residual import SCENARIO
from gradscope.scenarios.runner import run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0], steps=40, settings={}, directory=tmp_path_factory.mktemp("run"))


def metrics(result, name):
    (one,) = result.of(SCENARIO.variant(name))
    return one.metrics


def test_it_comes_out_as_expected_in_a_quarter_of_its_steps(result):
    assert result.as_expected


def test_a_plain_layer_passes_what_theory_says(result):
    default = theory.gradient_factor("relu", 1.0, theory.TORCH_LINEAR) ** 0.5
    assert metrics(result, "mlp, plain")["gain_at_start"] == pytest.approx(default, rel=0.05)
    assert metrics(result, "conv, plain")["gain_at_start"] < default  # the edges of the image are padded with zeros
    assert metrics(result, "mlp, plain")["gradient_decades"] > 7


def test_normalisation_has_a_factor_of_its_own(result):
    assert metrics(result, "mlp, plain + norm")["gain_at_start"] == pytest.approx(theory.BATCH_NORM_RELU**0.5, rel=0.05)


@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_a_way_around_passes_the_gradient_and_the_net_learns(result, kind):
    assert metrics(result, f"{kind}, residual")["gain_at_start"] == pytest.approx(1, abs=0.05)
    assert metrics(result, f"{kind}, residual")["accuracy"] > 0.5
    assert metrics(result, f"{kind}, residual + norm")["accuracy"] > 0.5
    assert metrics(result, f"{kind}, plain")["accuracy"] < 0.2

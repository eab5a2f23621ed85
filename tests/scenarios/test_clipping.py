import math

import pytest

from gradscope.scenarios.clipping import SCENARIO
from gradscope.scenarios.runner import run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(SCENARIO, seeds=[0], steps=100, settings={}, directory=tmp_path_factory.mktemp("run"))


def one(result, name):
    (found,) = result.of(SCENARIO.variant(name))
    return found


def test_it_comes_out_as_expected_in_half_of_its_steps(result):
    assert result.as_expected


@pytest.mark.parametrize("kind", ["recurrent", "deep"])
def test_without_clipping_the_run_is_lost_and_with_it_it_learns(result, kind):
    assert not math.isfinite(one(result, f"{kind}, no clipping").loss_last)
    assert one(result, f"{kind}, no clipping").metrics["steps_clipped"] == 0
    for name in ("by norm", "by value", "adaptive"):
        clipped = one(result, f"{kind}, {name}")
        assert clipped.loss_last < clipped.loss_first
        assert clipped.metrics["steps_clipped"] > 0.9
        assert clipped.metrics["scaled_by"] < 0.1


@pytest.mark.parametrize("kind", ["recurrent", "deep"])
def test_only_the_clip_by_norm_keeps_the_direction(result, kind):
    cosine = {
        name: one(result, f"{kind}, {name}").metrics["direction_cosine"] for name in ("by norm", "by value", "adaptive")
    }
    assert cosine["by norm"] == pytest.approx(1, abs=1e-6)
    assert cosine["by value"] < cosine["adaptive"] < 0.99


def test_a_low_rate_needs_few_clips(result):
    assert one(result, "deep, low rate, by norm").metrics["steps_clipped"] < 0.4
    assert one(result, "deep, low rate, by norm").metrics["accuracy"] > 0.8

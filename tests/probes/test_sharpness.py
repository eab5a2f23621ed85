"""Sites of attention: the mean and the largest of all heads, and each head by itself."""

import math

import pytest
import torch

from gradscope.attention import Sharpness
from gradscope.probes.sharpness import SharpSite
from gradscope.recorder import StepRecorder
from gradscope.records import COLUMN
from gradscope.statistics import Rows


def recorded(*found: Sharpness, each: bool = True) -> dict[str, tuple[float, float]]:
    """Entropy and largest logit by the name of the site, after one step."""
    recorder = StepRecorder({"attention": "Attention"}, lambda: None)
    recorder.on = True
    site = SharpSite("attention")
    for time, one in enumerate(found):
        site.emit(recorder, one, time, each=each)
        recorder.emit(recorder.site("attention", "output"), torch.ones(3), time)
    values: Rows = recorder.end_step(lr=0.1, loss_scale=1.0).values
    columns = [COLUMN["attention_entropy"], COLUMN["max_logit"]]
    return {s.name: tuple(values[i, columns].tolist()) for i, s in enumerate(recorder.sites)}


def sharpness(entropy: list[float], largest: list[float]) -> Sharpness:
    return Sharpness(torch.tensor(entropy).double(), torch.tensor(largest).double())


def test_of_several_calls_the_mean_entropy_and_the_largest_logit_count() -> None:
    found = recorded(sharpness([0.25, 0.75], [3.0, 1.0]), sharpness([0.75, 0.75], [-2.0, 5.0]))
    assert found["head0"] == (0.5, 3.0)
    assert found["head1"] == (0.75, 5.0)
    assert found[""] == pytest.approx((0.625, 5.0))


def test_heads_that_tell_nothing_do_not_count() -> None:
    found = recorded(sharpness([math.nan, 0.5], [math.nan, -3.0]))
    assert found[""] == (0.5, -3.0)
    assert math.isnan(found["head0"][0])


def test_channels_are_no_heads() -> None:
    many = sharpness([0.5] * 200, [1.0] * 200)
    assert recorded(many) == {"": (0.5, 1.0)}
    assert recorded(sharpness([0.5], [1.0]), each=False) == {"": (0.5, 1.0)}

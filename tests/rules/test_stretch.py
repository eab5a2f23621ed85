import copy

import numpy as np
import pytest
import torch
from builders import trace_of
from torch import nn

import gradscope
from gradscope.records import Quantity, Statistic
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.gain import DECAY, steady, steepest_rises
from gradscope.rules.layers import profile_of, relative_scale
from gradscope.rules.persistence import persistence
from gradscope.rules.stretch import scale_along, stretch_of
from gradscope.rules.vanishing_gradient import VanishingGradient


def falling(factor=0.1, rms=0.05, layers=8):
    return trace_of(
        types=["Linear"] * layers,
        modules=[f"fc{i}" for i in range(layers)],
        numel=400,
        weight_rms=np.full(layers, rms),
        output_grad_l2_norm=factor ** np.arange(layers)[::-1],
    )


def stretch_in(trace):
    profile = profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)
    rises = steepest_rises(profile.values)
    lasting = persistence(steady(rises, decades=3.0, gain=DECAY), rises.known)
    assert lasting is not None
    return stretch_of(trace, profile, rises, lasting), scale_along(trace, profile, rises)


def test_a_stretch_says_where_how_much_and_since_when():
    stretch, _ = stretch_in(falling())
    assert (stretch.early, stretch.late) == ("fc0", "fc7")
    assert stretch.decades == pytest.approx(7.0, rel=1e-5)
    assert stretch.per_layer == pytest.approx(1.0, rel=1e-5)
    assert stretch.when == "in steps 0 to 9"


def test_the_weights_are_compared_with_what_keeps_the_spread():
    stretch, along = stretch_in(falling(rms=0.05))
    assert along == pytest.approx(0.05 * np.sqrt(20))
    assert stretch.scale == pytest.approx(0.05 * np.sqrt(20))
    assert "0.22 times" in stretch.weights


def test_the_advice_names_a_layer_the_std_it_has_and_the_std_it_needs():
    trace = falling(rms=0.05)
    stretch, _ = stretch_in(trace)
    assert stretch.weight_advice(trace, "larger").startswith(
        "Draw the weights larger: fc1 has an rms of 0.05, a std of 0.22 keeps the spread"
    )


def test_the_scale_along_a_rise_is_the_median_over_its_layers_but_the_first():
    rng = np.random.default_rng(0)
    steps, layers = 60, 9
    rms = rng.uniform(0.01, 0.1, (steps, layers))
    rms[rng.random(rms.shape) < 0.6] = np.nan
    gradient = 10.0 ** (rng.normal(size=(steps, layers)) + 0.4 * np.arange(layers))
    trace = trace_of(types="Linear", numel=400, weight_rms=rms, output_grad_l2_norm=gradient)
    profile = profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)
    rises = steepest_rises(profile.values)
    scales = np.stack([relative_scale(trace, layer) for layer in profile.layers], axis=1)
    wanted = []
    for step in range(steps):
        part = scales[step, rises.foot[step] + 1 : rises.top[step] + 1]
        part = part[np.isfinite(part)]
        wanted.append(np.median(part) if len(part) else np.nan)
    assert 0 < np.isnan(wanted).sum() < steps
    np.testing.assert_array_equal(scale_along(trace, profile, rises), wanted)  # to the last bit


class Scaled(torch.autograd.Function):
    """Passes on its input, and back a multiple of the gradient."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return Scaled.apply(x, self.factor)


class Block(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.fc, self.factor = nn.Linear(16, 16), factor

    def forward(self, x):
        return x + self.factor * torch.relu(self.fc(x))


@pytest.mark.parametrize(
    ("parts", "rule", "words", "remedy"),
    [
        ([Scale(0.1)], VanishingGradient, "in 6 Scales (0.1 each)", "Look at what each Scale does to the gradient"),
        ([Scale(20.0)], ExplodingGradient, "in 6 Scales (20 each)", "Look at what each Scale does to the gradient"),
        ([Block(9.0)], ExplodingGradient, "where paths join", "Where the paths join, a gradient passes back"),
    ],
)
def test_the_remedy_is_for_what_makes_up_the_decades(parts, rule, words, remedy):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(16, 16), *copy.deepcopy(parts)) for _ in range(6)), nn.Linear(16, 1)
    )
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.out_features == 16:
            nn.init.orthogonal_(layer.weight)
    with gradscope.attach(model) as scope:
        for _ in range(3):
            model(torch.randn(8, 16)).square().sum().backward()
            scope.step()
    (finding,) = rule().check(scope.trace)
    assert words in finding.cause
    assert finding.remedy.startswith(remedy)

import math

import numpy as np
import pytest
import torch

from gradscope import theory
from gradscope.scenarios import models

# DESIGN §5: mean-square gradient factor per layer
EIGHT = {
    "relu, He": (theory.deep_gradient_factor("relu", theory.HE), 1.0),
    "relu, torch's default": (theory.deep_gradient_factor("relu", theory.TORCH_LINEAR), 1 / 6),
    "relu, twice He's scale": (theory.deep_gradient_factor("relu", 4 * theory.HE), 4.0),
    "tanh, torch's default": (theory.deep_gradient_factor("tanh", theory.TORCH_LINEAR), 1 / 3),
    "sigmoid, torch's default": (theory.deep_gradient_factor("sigmoid", theory.TORCH_LINEAR), 0.0200),
    "tanh, σ_w² = 4": (theory.deep_gradient_factor("tanh", 4.0), 1.363),
    "BatchNorm + relu": (theory.BATCH_NORM_RELU, 1.467),
    "orthogonal 0.9": (theory.gradient_factor("linear", 1.0, 0.9**2), 0.9**2),
}


@pytest.mark.parametrize(("computed", "stated"), EIGHT.values(), ids=EIGHT)
def test_the_eight_figures(computed, stated):
    assert computed == pytest.approx(stated, rel=1e-3)


@pytest.mark.parametrize(("activation", "bound"), {"sigmoid": 0.25, "tanh": 1, "relu": 1, "gelu": 1.129}.items())
def test_no_slope_is_above_the_bound(activation, bound):
    assert theory.slope_bound(activation) == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize("activation", sorted(models.ACTIVATIONS))
def test_value_and_slope_are_those_of_torch(activation):
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    y = models.ACTIVATIONS[activation]()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    points = np.linspace(-5, 5, 101)
    off_the_kink = np.abs(points) > 1e-6
    value_of, slope_of = theory._FUNCTIONS[activation]
    np.testing.assert_allclose(value_of(points), y.detach(), atol=1e-12)
    np.testing.assert_allclose(slope_of(points)[off_the_kink], slope.numpy()[off_the_kink], atol=1e-12)


def test_expectations_agree_with_closed_forms_and_with_quadrature():
    assert theory.expectation(lambda x: x**2, 3.0) == pytest.approx(3.0)
    assert theory.pre_activation("relu", 2.0, 2.0) == pytest.approx(2.0, rel=1e-5)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    by_quadrature = (weights * np.tanh(nodes) ** 2).sum() / math.sqrt(2 * math.pi)
    assert theory.expectation(lambda x: np.tanh(x) ** 2, 1.0) == pytest.approx(by_quadrature, rel=1e-9)


def test_a_narrow_slope_is_not_stepped_over():
    # E[sech⁴(√q z)] → (4/3) / √(2πq) for large q
    q = 400.0
    assert theory.gradient_factor("tanh", q, 1.0) == pytest.approx(4 / 3 / math.sqrt(2 * math.pi * q), rel=1e-2)


def test_a_fixed_point_is_one():
    q = theory.fixed_point("tanh", 4.0)
    assert theory.pre_activation("tanh", q, 4.0) == pytest.approx(q)
    assert theory.fixed_point("tanh", 0.5) < 1e-12


def test_a_finite_depth_lies_between_its_first_layer_and_its_fixed_point():
    first = theory.gradient_factor("tanh", 1.0, 1.0)
    deep = theory.mean_gradient_factor("tanh", 1.0, layers=10, first=1.0)
    assert first < deep < 1


def test_an_exploding_signal_does_not_overflow():
    assert theory.mean_gradient_factor("relu", 2000.0, layers=200, first=64.0) == pytest.approx(1000)


def test_a_wide_random_net_does_what_theory_says():
    torch.manual_seed(0)
    model = models.mlp(depth=12, width=512, activation="tanh", init="xavier")
    y, kept = torch.randn(256, 64), []
    for module in model[:-1]:
        y = module(y)
        if isinstance(module, torch.nn.Linear):
            y.retain_grad()
            kept.append(y)
    (model.head(y) * torch.randn(256, 10)).sum().backward()
    square = [float(y.grad.square().mean()) for y in kept]
    measured = (square[0] / square[-1]) ** (1 / (len(square) - 1))
    first = 64 * 2 / (64 + 512)
    assert measured == pytest.approx(theory.mean_gradient_factor("tanh", 1.0, layers=11, first=first), rel=0.03)


@pytest.mark.parametrize("name", sorted(theory.KNOWN_CLASSES))
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 3.0)])
def test_the_mean_square_slope_is_that_of_torch(name, mean, std):
    torch.manual_seed(0)
    x = (mean + std * torch.randn(400_000, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(getattr(torch.nn, name)()(x).sum(), x)
    assert theory.slope_square(name, mean, std) == pytest.approx(float((slope**2).mean()), rel=0.02, abs=1e-3)


def test_what_is_not_known_is_none():
    assert theory.slope_square("Mystery", 0.0, 1.0) is None
    assert theory.slope_square("ReLU", 1.0, 0.0) == 1.0

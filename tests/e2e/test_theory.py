"""The measured gain meets the theory: mean-square gradient factor per layer, eight figures, within 3 %."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import gradscope

WIDTH, SEEDS = 512, 5


def normal(scale: float):
    def init(layer: nn.Linear) -> None:
        nn.init.normal_(layer.weight, std=scale / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)

    return init


def default(layer: nn.Linear) -> None:
    layer.reset_parameters()


def measured_factor(init, activation, *, depth: int, batch: int, norm: bool, x_scale: float, skip: int) -> float:
    """Geometric mean over layers and seeds of the mean-square ratio of ∂L/∂y of consecutive linear layers."""
    logs = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        parts = []
        for _ in range(depth):
            linear = nn.Linear(WIDTH, WIDTH)
            init(linear)
            parts += [linear, *([nn.BatchNorm1d(WIDTH)] if norm else []), activation()]
        model = nn.Sequential(*parts)
        with gradscope.attach(model) as scope:
            (model(x_scale * torch.randn(batch, WIDTH)) * torch.randn(batch, WIDTH)).sum().backward()
        sites, rms = scope.trace.by_depth("output_grad", "rms")
        linear = [i for i, site in enumerate(sites) if site.module_type == "Linear"]
        log = np.log(rms[0, linear].astype(np.float64) ** 2)
        logs.append((log[skip] - log[-1]) / (len(log) - 1 - skip))
    return math.exp(np.mean(logs))


def torch_default_sigmoid() -> float:
    # q* = σ_w² E[s(√q z)²] + σ_b², χ = σ_w² E[s′(√q z)²] with σ_w² = 1/3 and σ_b² = 1/(3·width)
    z, w = np.polynomial.hermite_e.hermegauss(101)
    w = w / w.sum()
    q = 1.0
    for _ in range(50):
        q = (w * (1 / (1 + np.exp(-math.sqrt(q) * z))) ** 2).sum() / 3 + 1 / (3 * WIDTH)
    s = 1 / (1 + np.exp(-math.sqrt(q) * z))
    return float((w * (s * (1 - s)) ** 2).sum() / 3)


CASES = {
    "ReLU, He": (1.0, normal(math.sqrt(2)), nn.ReLU, {}),
    "ReLU, torch's default": (1 / 6, default, nn.ReLU, {}),
    "ReLU, twice He": (4.0, normal(2 * math.sqrt(2)), nn.ReLU, {}),
    "tanh, torch's default": (1 / 3, default, nn.Tanh, {"x_scale": 0.05}),
    "sigmoid, torch's default": (torch_default_sigmoid(), default, nn.Sigmoid, {"depth": 10, "skip": 2}),
    "tanh, σ_w² = 4": (1.363, normal(2.0), nn.Tanh, {"skip": 4, "depth": 24}),
    "BatchNorm and ReLU": (
        math.pi / (math.pi - 1),
        normal(1.0),
        nn.ReLU,
        {"norm": True, "skip": 2, "depth": 14, "batch": 1024},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_measured_gain_is_the_predicted_one(case):
    predicted, init, activation, options = case
    settings = {"depth": 16, "batch": 256, "norm": False, "x_scale": 1.0, "skip": 0} | options
    assert measured_factor(init, activation, **settings) == pytest.approx(predicted, rel=0.03)


def test_the_figure_for_the_default_sigmoid_is_the_published_one():
    assert torch_default_sigmoid() == pytest.approx(0.0200, rel=0.01)


@pytest.mark.parametrize("r", [0.5, 0.9, 1.0])
def test_orthogonal_recurrence_keeps_r_per_step(r):
    """A tanh cell called in a loop at small input: ∂L/∂h_t shrinks by r a step."""
    torch.manual_seed(0)
    cell = nn.RNNCell(4, WIDTH)
    nn.init.orthogonal_(cell.weight_hh, r)
    nn.init.zeros_(cell.bias_hh)
    nn.init.zeros_(cell.bias_ih)
    h, x = torch.zeros(8, WIDTH), 1e-4 * torch.randn(30, 8, 4)
    with gradscope.attach(cell) as scope:
        for t in range(30):
            h = cell(x[t], h)
        (h * torch.randn(8, WIDTH)).sum().backward()
    norm = scope.trace.by_time("", "output_grad", "l2_norm")[0].astype(np.float64)
    assert (norm[0] / norm[-1]) ** (1 / 29) == pytest.approx(r, rel=0.03)

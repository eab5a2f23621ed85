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


def gain_per_step(trace: gradscope.Trace, state: str) -> np.ndarray:
    """What is carried to step t of what has arrived at step t + 1, for each t."""
    carried = trace.by_time("", "state_grad", "l2_norm", name=f"{state}_l0.carried")[0].astype(np.float64)
    arrived = trace.by_time("", "state_grad", "l2_norm", name=f"{state}_l0")[0].astype(np.float64)
    return carried[:-1] / arrived[1:]


def watched(rnn: nn.RNNBase, x: torch.Tensor) -> gradscope.Trace:
    """One backward of a random loss on the last step."""
    with gradscope.attach(rnn) as scope:
        y = rnn(x)[0]
        (y[-1] * torch.randn_like(y[-1])).sum().backward()
    return scope.trace


@pytest.mark.parametrize("r", [0.5, 0.9, 1.0])
def test_a_fused_orthogonal_recurrence_keeps_r_per_step(r):
    torch.manual_seed(0)
    rnn = nn.RNN(4, 128)
    nn.init.orthogonal_(rnn.weight_hh_l0, r)
    nn.init.zeros_(rnn.bias_hh_l0)
    nn.init.zeros_(rnn.bias_ih_l0)
    trace = watched(rnn, 1e-4 * torch.randn(60, 8, 4))
    assert gain_per_step(trace, "h") == pytest.approx(r, rel=0.02)
    assert trace.series("", "state", "spectral_radius", name="h_l0")[0] == pytest.approx(r, rel=1e-4)


def test_a_rectified_identity_of_1_2_explodes_at_1_2():
    torch.manual_seed(0)
    rnn = nn.RNN(4, 128, nonlinearity="relu")
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(1.2 * torch.eye(128))
        rnn.weight_ih_l0.abs_()
        for bias in (rnn.bias_hh_l0, rnn.bias_ih_l0):
            bias.zero_()
    assert gain_per_step(watched(rnn, torch.rand(60, 8, 4)), "h") == pytest.approx(1.2, rel=0.03)


@pytest.mark.parametrize("f", [0.1, 0.5, 0.98])
def test_a_cell_carries_what_its_forget_gate_lets_through(f):
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 64)
    forget = slice(64, 128)
    with torch.no_grad():
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_hh_l0):
            weight[forget] = 0
        lstm.bias_ih_l0[forget] = math.log(f / (1 - f))
    trace = watched(lstm, torch.randn(40, 8, 4))
    assert gain_per_step(trace, "c") == pytest.approx(f, rel=1e-4)
    assert trace.by_time("", "gate", "mean", name="forget_l0") == pytest.approx(f, rel=1e-4)

"""What theory expects of each layer of a real net: the design's figures within 1 %, and what has no theory."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.budget import budget_of
from gradscope.expected import Expectation, Piece, expectations, meaning, one_chain, phase_of
from gradscope.kinds import Kind
from gradscope.terms import Term

WIDTH = 400


def normal(scale):
    def init(layer):
        nn.init.normal_(layer.weight, std=scale / math.sqrt(layer.in_features))
        nn.init.zeros_(layer.bias)

    return init


def default(layer):
    layer.reset_parameters()


def recorded(model, x, weight=None):
    weight = torch.randn(model(x[:2]).shape[1:]) if weight is None else weight
    with gradscope.attach(model) as scope:
        (model(x) * torch.randn(len(x), *weight.shape)).sum().backward()
    return scope.trace


def layers(init, activation, *, depth=12, norm=False, x_scale=1.0, batch=256, seed=0):
    torch.manual_seed(seed)
    parts = []
    for _ in range(depth):
        linear = nn.Linear(WIDTH, WIDTH)
        init(linear)
        parts += [linear, *([nn.BatchNorm1d(WIDTH)] if norm else []), activation()]
    trace = recorded(nn.Sequential(*parts), x_scale * torch.randn(batch, WIDTH))
    return expectations(trace, budget_of(trace))


# DESIGN §5: mean-square gradient factor per layer; the layers nearest to the input have not settled yet
FIGURES = {
    "ReLU, He": (1.0, normal(math.sqrt(2)), nn.ReLU, {"depth": 5, "batch": 512}, 0),
    "ReLU, torch's default": (1 / 6, default, nn.ReLU, {"depth": 5, "batch": 512}, 0),
    "ReLU, twice He": (4.0, normal(2 * math.sqrt(2)), nn.ReLU, {"depth": 5, "batch": 512}, 0),
    "tanh, torch's default": (1 / 3, default, nn.Tanh, {"x_scale": 0.05}, 0),
    "sigmoid, torch's default": (0.0200, default, nn.Sigmoid, {"depth": 8}, 2),
    "tanh, σ_w² = 4": (1.363, normal(2.0), nn.Tanh, {"depth": 14}, 4),
    "BatchNorm and ReLU": (math.pi / (math.pi - 1), normal(1.0), nn.ReLU, {"norm": True, "batch": 512}, 2),
}


@pytest.mark.parametrize(("stated", "init", "activation", "options", "skip"), FIGURES.values(), ids=FIGURES)
def test_theory_of_the_measured_weights_and_activations_meets_the_design(stated, init, activation, options, skip):
    predicted, measured = [], []
    for seed in range(4):
        found = layers(init, activation, **options, seed=seed)
        found = found[: len(found) - skip]
        assert all(one.agrees for one in found)
        predicted += [math.log(one.predicted) for one in found]
        measured += [math.log(one.measured) for one in found]
    assert math.exp(np.mean(predicted)) == pytest.approx(stated, rel=0.01)
    assert math.exp(np.mean(measured)) == pytest.approx(stated, rel=0.03)


@pytest.mark.parametrize(
    ("scale", "phase"), [(math.sqrt(2), "critical"), (1.0, "ordered"), (2 * math.sqrt(2), "chaotic")]
)
def test_phases(scale, phase):
    assert {one.phase for one in layers(normal(scale), nn.ReLU, depth=5)} == {phase}


@pytest.mark.parametrize(("chi", "phase"), [(0.9, "ordered"), (1.0, "critical"), (1.2, "chaotic"), (math.nan, "")])
def test_the_phase_of_a_factor(chi, phase):
    assert phase_of(chi) == phase


def test_a_residual_net_is_no_chain():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch, self.head = nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 9)

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.branch(x))

    for model, chain in ((Residual(), False), (nn.Sequential(nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9)), True)):
        trace = recorded(model, torch.randn(8, 9))
        budget = budget_of(trace)
        assert one_chain(trace, budget, expectations(trace, budget)) is chain


def test_convolutions_layer_norm_and_dropout_have_a_theory():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Dropout(0.3),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.LayerNorm(64 * 64),
        nn.Linear(64 * 64, 64), nn.Tanh(), nn.Linear(64, 64),
    )  # fmt: skip
    trace = recorded(model, torch.randn(64, 64, 8, 8))
    found = {one.module: one for one in expectations(trace, budget_of(trace))}
    assert list(found) == ["8", "6", "3"]
    for one in found.values():
        assert one.agrees
        assert one.ratio == pytest.approx(1, rel=0.25)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 64)
        self.block = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.block(x))


def test_the_layers_of_a_branch_have_a_theory_of_their_own():
    torch.manual_seed(0)
    trace = recorded(Residual(), torch.randn(64, 64))
    found = {one.module: one for one in expectations(trace, budget_of(trace))}
    assert set(found) == {"head", "block.3", "block.1"}
    assert found["block.3"].predicted == pytest.approx(1 / 6, rel=0.1)
    assert all(one.agrees for one in found.values())


def test_what_has_no_theory_is_not_compared():
    torch.manual_seed(0)
    trace = recorded(nn.Sequential(nn.Linear(64, 64), nn.PReLU(), nn.Linear(64, 64)), torch.randn(32, 64))
    (one,) = expectations(trace, budget_of(trace))
    assert math.isnan(one.predicted)
    assert one.agrees
    assert one.phase == ""
    assert one.worst is None


def test_a_disagreement_is_told_where_it_lies():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(256, 1) @ torch.randn(1, 256) / 16)  # of rank one
    x = torch.randn(64, 256)
    with gradscope.attach(model) as scope:
        (model(x) @ model[2].weight.detach()).sum().backward()  # along its one direction
    trace = scope.trace
    (one,) = expectations(trace, budget_of(trace))
    assert not one.agrees
    assert one.worst.term.kind is Kind.WEIGHTS
    assert one.ratio > 10
    assert one.to_dict()["meaning"] == meaning(Kind.WEIGHTS)


def test_a_narrow_layer_strays_by_chance():
    torch.manual_seed(0)
    trace = recorded(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(4, 8))
    (one,) = expectations(trace, budget_of(trace))
    assert one.tolerance == pytest.approx(1 + 3 * math.sqrt(2 / 8))


def test_what_has_left_the_range_is_no_piece_to_name():
    one, other = (
        Term(module=m, module_type="Linear", kind=Kind.WEIGHTS, decades=0.0, per_step=np.zeros(1)) for m in "ab"
    )
    infinite = Piece(term=one, predicted=math.inf, measured=2.0)
    known = Piece(term=other, predicted=1.0, measured=9.0)
    assert Expectation(module="a", pieces=(infinite, known)).worst == known

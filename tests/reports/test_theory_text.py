"""Theory beside measurement at a terminal."""

import json
import math

import pytest
import torch
from builders import trace_of
from examples import printed
from torch import nn

import gradscope
from gradscope.reports.budget_text import BudgetView
from gradscope.reports.theory_text import MOST_LAYERS, TheoryView, theory_document


def recorded(depth=4, rank_one=False):
    torch.manual_seed(0)
    parts = [part for _ in range(depth) for part in (nn.Linear(128, 128), nn.Tanh())]
    model = nn.Sequential(*parts, nn.Linear(128, 128))
    if rank_one:
        with torch.no_grad():
            model[-1].weight.copy_(torch.randn(128, 1) @ torch.randn(1, 128) / 11)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(3):
            (model(torch.randn(64, 128)) @ model[-1].weight.detach()).square().sum().backward()
            optimizer.step()
    return scope.trace


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    assert max(len(line.rstrip()) for line in printed(TheoryView(recorded()), width=width).splitlines()) <= width


def test_a_line_for_each_layer_with_both_numbers():
    lines = printed(TheoryView(recorded())).splitlines()
    (line,) = (line for line in lines if line.startswith("6 "))
    name, through, activation, predicted, measured, ratio = line.split()
    assert (name, through, activation) == ("6", "Linear,", "Tanh")
    assert float(predicted) == pytest.approx(1 / 3, rel=0.1)
    assert float(ratio) == pytest.approx(float(measured) / float(predicted), abs=0.01)
    assert any("decades predicted over 4 layers" in line for line in lines)
    assert any("ordered" in line for line in lines)


def test_one_chain_has_a_total_and_the_phase_that_was_measured():
    shown = " ".join(printed(TheoryView(recorded()), width=200).split())
    assert "ordered: χ is 0.3" in shown
    assert "as measured, the gradient shrinks with depth." in shown
    assert "as predicted is within a factor of 1.25" in shown


def test_two_layers_have_a_total_and_no_phase():
    shown = printed(TheoryView(recorded(2)), width=200)
    assert "over 2 layers" in shown
    assert "ordered" not in shown


def test_where_theory_is_off_by_more_than_two_there_is_no_phase():
    trace = recorded()
    for layer in ("2", "4", "6", "8"):  # weights that grew behind the gradient's back
        for column in trace.columns("weight", layer, "weight"):
            trace.statistics["rms"][:, column] *= 2
    shown = " ".join(printed(TheoryView(trace), width=200).split())
    assert "per layer in theory and" in shown
    assert "which tells no phase" in shown
    assert "0 of 4 layers as predicted" in shown


def test_where_paths_join_there_is_neither():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(128, 128), nn.Linear(128, 128)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(128, 128), nn.ReLU()) for _ in range(3))

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    model = Residual()
    with gradscope.attach(model) as scope:
        model(torch.randn(64, 128)).square().sum().backward()
    shown = " ".join(printed(TheoryView(scope.trace), width=200).split())
    assert "No total and no phase: paths branch or join here" in shown
    assert "decades predicted" not in shown
    assert "ordered" not in shown


def test_where_no_layer_has_a_theory_there_is_no_table():
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    model = nn.Sequential(nn.Linear(8, 8), Square(), nn.Linear(8, 3))
    with gradscope.attach(model) as scope:
        model(torch.randn(4, 8)).sum().backward()
    shown = printed(TheoryView(scope.trace))
    assert "no layer of the way back has a theory: there is none of Square" in shown
    assert "back through" not in shown


@pytest.mark.parametrize("name", ["x" * 120, "line\nbreak"])
@pytest.mark.parametrize("view", [TheoryView, BudgetView])
def test_a_strange_name_keeps_its_line(view, name):
    model = nn.Sequential()
    for i, part in enumerate((nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))):
        model.add_module(name if i == 2 else f"l{i}", part)
    with gradscope.attach(model) as scope:
        model(torch.randn(4, 8)).sum().backward()
    lines = printed(view(scope.trace), width=80).splitlines()
    (line,) = (line for line in lines if line.startswith(name[:10].partition("\n")[0]) and "Linear" in line)
    assert len(line) <= 80
    if view is TheoryView:
        assert "Tanh" in line


def test_where_the_two_part_it_says_what_that_means():
    shown = " ".join(printed(TheoryView(recorded(rank_one=True)), width=200).split())
    assert "off at 8 ×" in shown
    assert "the gradient lies in few directions" in shown


def test_a_deep_net_is_cut():
    assert f"and {60 - MOST_LAYERS} more" in printed(TheoryView(recorded(60)))


def test_as_json():
    document = json.loads(json.dumps(theory_document(recorded())))
    assert document["schema"] == "gradscope/theory/1"
    assert [layer["module"] for layer in document["layers"]] == ["8", "6", "4", "2"]
    assert all(math.isfinite(layer["ratio"]) for layer in document["layers"])


def test_without_a_budget_it_says_why():
    trace = trace_of(output_grad_l2_norm=[1.0, 2.0])
    assert "tell which module" in printed(TheoryView(trace)).replace("\n", " ")
    assert theory_document(trace)["layers"] == []

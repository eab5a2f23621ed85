"""Theory beside measurement at a terminal."""

import json
import math

import pytest
import torch
from builders import trace_of
from examples import printed
from torch import nn

import gradscope
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
    assert "does not tell which module is given" in printed(TheoryView(trace)).replace("\n", " ")
    assert theory_document(trace)["layers"] == []

"""What the modules return: dead and saturated units, nested outputs, time."""

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.probes import Activations


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x, scale):
        out = self.inner(x)
        return (out["logits"] * scale).sum() + out["aux"][0].sum()


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return {"logits": x * self.weight, "aux": (x + 1, torch.arange(3))}


def test_nested_outputs_are_sites_with_their_paths():
    model = Nested()
    scope = gradscope.attach(model, probes=[Activations()])
    model(torch.ones(2, 3), scale=torch.tensor(2.0)).backward()
    trace = scope.trace
    assert [str(site) for site in trace.sites] == [
        "(model)[0]:input",
        "(model)[scale]:input",
        "inner[logits]:output",
        "inner[aux.0]:output",
    ]
    assert trace.series("inner", "output", "mean", name="aux.0").tolist() == [2]


def test_depth_counts_executions_and_the_input_is_zero():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.never, self.early = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.late(self.early(x))

    model = Backwards()
    scope = gradscope.attach(model)
    model(torch.randn(2, 3)).sum().backward()
    depth = {(site.module, site.quantity.value): site.depth for site in scope.trace.sites}
    assert depth["", "input"] == 0
    assert (depth["early", "output"], depth["late", "output"]) == (1, 2)
    assert depth["late", "weight_grad"] == 2
    assert depth["never", "weight"] == -1


def test_a_shared_module_has_a_row_for_each_run():
    act, linear = nn.Tanh(), nn.Linear(3, 3)
    model = nn.Sequential(linear, act, linear, act)
    x = torch.randn(5, 3)
    scope = gradscope.attach(model)
    model(x).sum().backward()
    first = torch.tanh(linear(x))
    second = torch.tanh(linear(first))
    wanted = [float(y.detach().square().mean().sqrt()) for y in (first, second)]
    assert scope.trace.by_time("1", "output", "rms")[0].tolist() == pytest.approx(wanted)
    whole = np.sqrt(np.mean(np.square(wanted)))
    assert scope.trace.series("1", "output", "rms")[0] == pytest.approx(whole)


@pytest.mark.parametrize("width", [6, 6000])
def test_dead_channels_are_a_share_of_the_channels(width):
    conv = nn.Conv1d(1, 4, 1)
    nn.init.constant_(conv.weight, 1.0)
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([0.0, -100.0, 0.0, -100.0]))
    model = nn.Sequential(conv, nn.ReLU(inplace=True))
    scope = gradscope.attach(model)
    for _ in range(3):
        model(torch.rand(5, 1, width)).sum().backward()
    assert scope.trace.series("1", "output", "dead_fraction").tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("batch", [8, 2000])
def test_saturated_elements_are_a_share_of_the_elements(batch):
    model = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 1), nn.Tanh())
    nn.init.constant_(model[2].bias, 1000.0)
    scope = gradscope.attach(model)
    x = 20 * torch.randn(batch, 6)
    model(x).sum().backward()
    y = model[1](model[0](x))
    wanted = float((4 * y * (1 - y) < 0.05).double().mean())
    assert 0 < wanted < 1
    assert scope.trace.series("1", "output", "saturated_fraction")[0] == pytest.approx(wanted)
    assert scope.trace.series("3", "output", "saturated_fraction")[0] == 1


def test_a_sequence_has_a_row_for_each_position():
    model = nn.GRU(3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)
    scope = gradscope.attach(model)
    y, _ = model(x)
    y.sum().backward()
    wanted = y.detach().square().mean((0, 2)).sqrt()
    assert scope.trace.by_time("", "output", "rms")[0].tolist() == pytest.approx(wanted.tolist())
    assert scope.trace.series("", "output", "rms")[0] == pytest.approx(float(y.detach().square().mean().sqrt()))


def test_windows_of_one_step_follow_each_other_in_time():
    model = nn.RNN(3, 4)
    scope = gradscope.attach(model)
    h, total = None, 0.0
    for _ in range(3):
        y, h = model(torch.randn(5, 2, 3), h)
        total = total + y.sum()
    total.backward()
    assert scope.trace.by_time("", "output", "numel").shape == (1, 15)


def test_integers_are_not_measured():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 1))
    scope = gradscope.attach(model)
    model(torch.tensor([1, 2])).sum().backward()
    assert not scope.trace.columns("input")
    assert scope.trace.columns("output", "0")

"""Few layers that are far too large: measured on real nets, where the numbers can be computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.findings import Severity
from gradscope.rules.forward_variance_explosion import ForwardVarianceExplosion
from gradscope.rules.oversized import oversized
from gradscope.trace import Trace


def layer(inputs: int, outputs: int, scale: float) -> nn.Linear:
    """Weights of `scale` times what He asks for, no bias."""
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(made.weight, std=scale * math.sqrt(2 / inputs))
    return made


class Divided(nn.Module):
    """Weights of std 1, divided by √fan_in where they are used."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T / math.sqrt(self.weight.shape[1])


def recorded(*layers: nn.Module, steps: int = 4) -> Trace:
    torch.manual_seed(1)
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(64, 200)).square().mean().backward()
            optimizer.step()
    return scope.trace


def three(*scales: float) -> tuple[nn.Module, ...]:
    torch.manual_seed(0)
    first, second, third = scales
    return layer(200, 200, first), nn.ReLU(), layer(200, 200, second), nn.ReLU(), layer(200, 200, third / math.sqrt(2))


def test_the_excess_is_the_sum_over_the_layers() -> None:
    found = oversized(recorded(*three(50, 1, 20)))
    assert found is not None
    assert [each.module for each in found.layers] == ["0", "4"]
    np.testing.assert_allclose(found.excess[0], np.log10([50, 20]), atol=0.03)


def test_three_layers_of_fifty_times_the_scale_are_an_explosion() -> None:
    (finding,) = ForwardVarianceExplosion().check(recorded(*three(50, 50, 50)))
    assert (finding.module, finding.severity) == ("0", Severity.ERROR)
    assert finding.measured == pytest.approx(5.1, abs=0.1)
    assert "with 2 other layers like it" in finding.message


def test_one_layer_of_a_thousand_times_the_scale_is_named() -> None:
    (finding,) = ForwardVarianceExplosion().check(recorded(*three(1, 1000, 1)))
    assert finding.module == "2"
    assert finding.measured == pytest.approx(3.0, abs=0.1)
    assert "1000 times the scale" in finding.cause
    assert "a std of 0.1 keeps the spread before ReLU" in finding.remedy


CLEAN = {
    "as asked": three(1, 1, 1),
    "ten times in one": three(1, 10, 1),
    "a norm behind": (layer(200, 200, 1000), nn.LayerNorm(200), nn.ReLU(), layer(200, 9, 1)),
    "a bounded activation behind": (layer(200, 200, 1000), nn.Tanh(), layer(200, 9, 1)),
    "divided where they are used": (Divided(200, 200), nn.ReLU(), Divided(200, 200)),
}


@pytest.mark.parametrize("layers", CLEAN.values(), ids=CLEAN)
def test_what_keeps_its_size_or_is_brought_down_is_clean(layers: tuple[nn.Module, ...]) -> None:
    found = oversized(recorded(*layers))
    assert found is None or found.decades[0] < ForwardVarianceExplosion().min_decades

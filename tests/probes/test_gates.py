"""A bounded activation that multiplies another activation is a gate, and is not judged by its saturation."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradscope

WIDTH = 4


class Gated(nn.Module):
    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.gate, self.value, self.use = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), use
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.gate(x), self.value(x)) * self.scale


def saturated(model: nn.Module, site: str = "sigmoid#0") -> float:
    """The share in the second of two steps."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(2):
            model(torch.randn(5, WIDTH)).sum().backward()
            optimizer.step()
    return float(scope.trace.series(site, "output", "saturated_fraction")[-1])


GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda a, b: torch.sigmoid(a) * b,
    "other order": lambda a, b: b * a.sigmoid(),
    "torch.mul": lambda a, b: torch.mul(b, torch.sigmoid(a)),
    "in place": lambda a, b: b.clone().mul_(torch.sigmoid(a)),
    "highway": lambda a, b: (1 - torch.sigmoid(a)) * b,
    "written-out GELU": lambda a, b: 0.5 * a * (1.0 + torch.sigmoid(a)),
    "chunks": lambda a, b: torch.cat([part * b[:, :2] for part in torch.sigmoid(a).chunk(2, 1)], 1),
    "indexed": lambda a, b: torch.sigmoid(a)[:, None, :].squeeze(1) * b,
    "unbound": lambda a, b: torch.stack([part * b[:, 0] for part in torch.sigmoid(a).unbind(1)], 1),
    "lerp": lambda a, b: torch.lerp(b, a, torch.sigmoid(a)),
    "addcmul": lambda a, b: torch.addcmul(b, torch.sigmoid(a), b),
    "dropout first": lambda a, b: F.dropout(torch.sigmoid(a), 0.5) * b,
}
NO_GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "alone": lambda a, b: torch.sigmoid(a),
    "scaled": lambda a, b: 2 * torch.sigmoid(a) - 1,
    "masked": lambda a, b: torch.sigmoid(a) * (b > 0),
    "residual": lambda a, b: (torch.sigmoid(a) + b) * b,
    "through a layer": lambda a, b: F.linear(torch.sigmoid(a), torch.eye(WIDTH)) * b,
}


@pytest.mark.parametrize("name", GATES)
def test_gates_are_not_saturated(name: str) -> None:
    assert np.isnan(saturated(Gated(GATES[name])))


@pytest.mark.parametrize("name", NO_GATES)
def test_what_is_no_gate_is_judged(name: str) -> None:
    assert saturated(Gated(NO_GATES[name])) >= 0

"""Layers that are called as functions tell where the features of what follows are."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradscope


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, 3))
        self.bias = nn.Parameter(torch.tensor([-99.0, 1.0, 1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv1d(x[:, None], self.weight, self.bias))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias = nn.Parameter(torch.tensor([-99.0, 1.0, 1.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x[:, None].expand(-1, 3, -1) @ self.weight.t() + self.bias)


@pytest.mark.parametrize("model", [Convolution, Dense])
def test_one_channel_of_four_is_dead(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with gradscope.attach(net, optimizer=optimizer) as scope:
        for _ in range(3):
            net(torch.rand(5, 6)).sum().backward()
            optimizer.step()
    assert scope.trace.series("relu#0", "output", "dead_fraction").tolist() == [0.25] * 3

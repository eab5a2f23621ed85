"""A small training for the trackers to look at."""

from collections.abc import Callable
from typing import Protocol

import pytest
import torch
from torch import nn

import gradscope


class Train(Protocol):
    def __call__(
        self,
        begun: Callable[[gradscope.Scope], object] = ...,
        *,
        steps: int = ...,
        after: Callable[[int, float], object] = ...,
    ) -> gradscope.Scope: ...


@pytest.fixture
def train() -> Train:
    """Trains a net whose ReLU is dead; `begun` is given the scope, `after` each step and its loss."""

    def run(begun=lambda scope: None, *, steps: int = 20, after=lambda step, loss: None) -> gradscope.Scope:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        nn.init.constant_(model[1].bias, -10.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gradscope.attach(model, optimizer=optimizer) as scope:
            begun(scope)
            for step in range(steps):
                loss = model(torch.randn(6, 4)).square().sum()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                scope.record_loss(loss)
                after(step, loss.item())
        return scope

    return run

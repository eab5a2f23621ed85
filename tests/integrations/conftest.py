"""A small training for the trackers to look at, and a pytest that runs elsewhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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


class RunPytest(Protocol):
    def __call__(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def run_pytest() -> RunPytest:
    """Runs pytest in a user's folder with the plugin of this checkout, and no other that happens to be installed."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        home = str(Path(gradscope.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": home, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "150"}
        environment.pop("PYTEST_ADDOPTS", None)
        plugins = ["-p", "gradscope.integrations.pytest_plugin", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *plugins, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)

    return run

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from gradscope import trial
from gradscope.config import read_config
from gradscope.scenarios import checked

TARGETS = {target.name: target for target in read_config(Path(__file__).parents[2] / "pyproject.toml").checks}
CHECKED = {name.lower(): one for name, one in vars(checked).items() if isinstance(one, checked.Checked)}


def test_every_variant_that_can_be_checked_is_healthy_and_is_checked():
    assert set(TARGETS) == set(CHECKED)
    assert not any(one.variant.expect for one in CHECKED.values())


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_trains_the_variant_as_its_scenario_does(name):
    target, one = replace(TARGETS[name], steps=2), CHECKED[name]
    trace = trial.train(trial.of(target), seed=0)

    settings = one.scenario.settings
    torch.manual_seed(0)
    model = one.variant.build(settings)
    task = one.scenario.task(settings)
    optimizer = one.variant.optimizer(model, settings)
    losses = []
    for inputs, targets in islice(task.batches(0), 2):
        optimizer.zero_grad()
        loss = task.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert trace.per_step["loss"].tolist() == losses

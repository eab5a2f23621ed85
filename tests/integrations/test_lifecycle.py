"""A scope for each training, by a callback's calls alone."""

import logging
import pickle

import pytest
import torch
from torch import nn

from gradscope.integrations.lifecycle import Lifecycle


def net() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    loss = model(torch.ones(3, 4)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def test_one_training_after_the_other() -> None:
    lifecycle = Lifecycle({"every": 2}, None)
    assert lifecycle.diagnosis is None
    lifecycle.loss(1.0)
    lifecycle.pause()
    lifecycle.resume()
    lifecycle.end(speak=True)
    model, optimizer = net()
    for first in (0, 10):
        scope = lifecycle.begin(model, [optimizer], None, first)
        for _ in range(3):
            lifecycle.loss(step(model, optimizer))
            lifecycle.pause()
            model(torch.ones(7, 4)).sum().backward()
            optimizer.zero_grad()
            lifecycle.resume()
        assert lifecycle.diagnosis.steps == 2, "while it runs"
        lifecycle.end(speak=False)
        assert scope.trace.steps.tolist() == [first, first + 2]
        assert set(scope.trace.series("", "output", "numel")) == {6.0}
        assert lifecycle.diagnosis is lifecycle.diagnosis
    lifecycle.begin(model, [optimizer], None, 0)
    lifecycle.begin(model, [optimizer], None, 0)  # the framework did not tell that the one before had failed
    lifecycle.end(speak=False)
    assert not model._forward_hooks


def test_an_evaluation_that_raises_leaves_nothing_paused() -> None:
    model, optimizer = net()
    lifecycle = Lifecycle({}, None)
    scope = lifecycle.begin(model, [optimizer], None, 0)
    step(model, optimizer)
    lifecycle.pause()
    lifecycle.end(KeyboardInterrupt(), speak=False)
    assert scope.trace.steps.tolist() == [0]
    assert [event.kind for event in scope.trace.events] == ["interrupted"]


@pytest.mark.parametrize("sick", [True, False])
def test_the_log_hears_what_was_found(sick: bool, caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = net()
    lifecycle = Lifecycle({}, None)
    if sick:
        nn.init.constant_(model.weight, float("nan"))
    with caplog.at_level(logging.INFO, "gradscope"):
        lifecycle.begin(model, [optimizer], None, 0)
        step(model, optimizer)
        lifecycle.end(speak=True)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert any("error GS401 non-finite" in text and level == "WARNING" for level, text in said) is sick
    assert (said == [("INFO", "gradscope: nothing found in 1 recorded steps")]) is not sick


def test_a_copy_for_another_process_records_by_itself() -> None:
    model, optimizer = net()
    lifecycle = Lifecycle({"every": 3}, None)
    lifecycle.begin(model, [optimizer], None, 0)
    copy = pickle.loads(pickle.dumps(lifecycle))
    lifecycle.end(speak=False)
    assert copy.scope is None
    copy.begin(model, [optimizer], None, 0)
    copy.end(speak=False)
    assert not model._forward_hooks

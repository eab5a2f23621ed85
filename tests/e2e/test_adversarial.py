"""What tries to trip whoever watches: nothing of it reaches the training, and nothing of gradscope fails or stays."""

import threading
from collections.abc import Callable

import pytest
import torch
from adversarial_accidents import ACCIDENTS
from adversarial_data import DATA
from adversarial_modules import MODULES
from adversarial_runs import RUNS
from adversarial_training import TRAINING
from torch import nn
from torch_models import loss_of, small
from watching import Training, assert_harmless, bits

import gradscope

ADVERSARIES = DATA | MODULES | RUNS | TRAINING | ACCIDENTS


@pytest.mark.parametrize("make", ADVERSARIES.values(), ids=ADVERSARIES)
def test_it_is_watched_all_the_same(make: Callable[[], Training]) -> None:
    assert_harmless(make)


def _run_in_threads(acts: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def _train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def test_two_models_in_two_threads_have_a_recording_each() -> None:
    def models() -> list[nn.Module]:
        torch.manual_seed(0)
        return [small().eval() for _ in range(3)]

    bare, watched = models(), models()
    for model in bare:
        _train(model, 20)
    scopes = []

    def train(model: nn.Module) -> None:
        with gradscope.attach(model) as scope:
            _train(model, 20)
        scopes.append(scope)

    _run_in_threads([lambda model=model: train(model) for model in watched])  # type: ignore[misc]
    for one, other in zip(bare, watched, strict=True):
        assert [bits(p) for p in one.parameters()] == [bits(p) for p in other.parameters()]
    for scope in scopes:
        assert len(scope.trace.steps) == 20
        assert [event for event in scope.trace.events if event.kind == "probe-failed"] == []


def test_one_model_that_two_threads_use_makes_neither_stumble() -> None:
    model = small()

    def accumulate() -> None:
        for step in range(30):
            loss_of(model, step).backward()

    with gradscope.attach(model) as scope:  # what is recorded is a mixture; it may end with an event that says so
        _run_in_threads([accumulate, accumulate])
    trace = scope.trace
    assert len(trace.steps) or "probe-failed" in {event.kind for event in trace.events}
    assert scope.diagnose().steps == len(trace.steps)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_part_and_the_whole_are_watched_at_once() -> None:
    torch.manual_seed(0)
    bare = small().eval()
    watched = small().eval()
    watched.load_state_dict(bare.state_dict())
    _train(bare, 5)
    with gradscope.attach(watched) as whole, gradscope.attach(watched[0]) as part:
        _train(watched, 5)
    assert [bits(p) for p in bare.parameters()] == [bits(p) for p in watched.parameters()]
    ours, theirs = (
        whole.trace.series("0.weight", "weight_grad", "rms"),
        part.trace.series("weight", "weight_grad", "rms"),
    )
    assert (ours == theirs).all()

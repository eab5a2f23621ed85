"""Healthy cases train: everything stays finite, and the loss falls by a fifth unless something else is promised."""

import math
from collections.abc import Callable

import pytest
import torch
from corpus.case import CASES, ends, get, randn, train
from corpus.cases import MODULES
from corpus.healthy_policies import contexts
from torch import nn

HEALTHY = [name for name in CASES if name.startswith("h_")]

# What is promised instead, and why in the docstring of the case: of the trained model and its losses.
Promise = Callable[[nn.Module, list[float]], bool]
PROMISES: dict[str, Promise] = {
    "h_adversaries_in_balance": lambda model, losses: forges(model, 1.5),
    "h_adversaries_in_turns": lambda model, losses: forges(model, -1.0),
    "h_reinforce_with_baseline": lambda model, losses: earns(model) > 0.4,
    "h_actor_critic_constant_advantage": lambda model, losses: earns(model) > 0.4,
    "h_proximal_policy_clipped_ratio": lambda model, losses: earns(model) > 0.4,
    "h_converged_regression_at_noise": lambda model, losses: ends(losses)[1] < 0.11,
}


def forges(model: nn.Module, mean: float) -> bool:
    """Whether the generator's points lie where the true ones do, and are spread as widely, roughly."""
    with torch.no_grad():
        forged = model.generator(randn(1000, 4, salt=1))
    return bool((forged.mean(0) - mean).abs().max() < 0.4 and 0.25 < forged.std(0).min() < forged.std(0).max() < 0.9)


def earns(policy: nn.Module) -> float:
    """What the policy's actions pay on average; random ones pay nothing, the best ones about 0.8."""
    seen, pays = contexts(10_000, 1000)
    with torch.no_grad():
        return float((policy(seen).softmax(1) * pays).sum(1).mean())


def falls(losses: list[float]) -> bool:
    first, last = ends(losses)
    return last <= 0.8 * first


def test_every_module_of_cases_is_named():
    here = {module.__name__.removeprefix("corpus.") for module in MODULES}
    assert {make.__module__.removeprefix("corpus.") for make in CASES.values()} == here


def test_promises_are_of_cases():
    assert PROMISES.keys() <= set(HEALTHY)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_case_trains(name):
    case = get(name)
    assert not case.expect
    model, losses = train(case)
    assert all(map(math.isfinite, losses))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert PROMISES[name](model, losses) if name in PROMISES else falls(losses), ends(losses)

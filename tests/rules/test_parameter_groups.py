import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.parameter_groups import group_by_parameter, groups_of


def trace(*optimizers):
    return trace_of(weight_rms=[1.0], meta={"optimizers": list(optimizers)})


ADAMW = {
    "type": "AdamW",
    "lr": 1e-3,
    "groups": [
        {"lr": 1e-3, "weight_decay": 0.1, "eps": 1e-8, "parameters": ["fc.weight"]},
        {"lr": 0.0, "initial_lr": 1e-5, "weight_decay": 0, "eps": 1e-8, "parameters": ["fc.bias", "norm.weight"]},
    ],
}


def test_each_parameter_has_the_settings_of_its_group():
    groups = group_by_parameter(trace(ADAMW))
    assert set(groups) == {"fc.weight", "fc.bias", "norm.weight"}
    assert (groups["fc.weight"].lr, groups["fc.weight"].weight_decay, groups["fc.weight"].decoupled) == (
        1e-3,
        0.1,
        True,
    )
    assert groups["norm.weight"].lr == 1e-5  # from where the warm-up goes to, not what it has set
    assert {group.of_first for group in groups.values()} == {1e-3}


def test_several_optimizers_are_told_apart():
    sgd = {"type": "SGD", "groups": [{"lr": 0.1, "weight_decay": 1e-4, "parameters": ["a"]}]}
    first, _, last = groups_of(trace(ADAMW, sgd))
    assert (first.optimizer, last.optimizer) == ("AdamW", "SGD")
    assert not last.decoupled


@pytest.mark.parametrize("optimizers", [(), ({"type": "SGD", "lr": 0.1},), ("SGD",), ({"type": "SGD", "groups": [1]},)])
def test_a_trace_that_does_not_tell_has_no_groups(optimizers):
    assert groups_of(trace(*optimizers)) == ()


def test_an_optimizer_without_a_rate_has_none():
    (group,) = groups_of(trace({"type": "Own", "groups": [{"parameters": ["a"]}]}))
    assert np.isnan(group.lr)
    assert group.eps == 0.0

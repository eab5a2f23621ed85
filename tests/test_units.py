"""Dead units, saturated elements and equal rows, against the definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradscope.idle import WINDOW
from gradscope.units import (
    ACTIVATION_FUNCTIONS,
    SLOPE,
    Liveness,
    activation_of,
    features_last,
    unit_axis,
)

BOUNDED = [
    nn.Sigmoid(), nn.Tanh(), nn.Softsign(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardtanh(-2, 3), nn.ELU(), nn.ELU(0.5),
    nn.CELU(2.0), nn.SELU(),
]  # fmt: skip


@pytest.mark.parametrize("module", BOUNDED, ids=str)
def test_saturated_is_where_the_slope_is_under_its_share_of_the_largest(module):
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert x.grad is not None
    # SELU's largest slope is just left of zero; the linear side's is what a unit at work has
    largest = 1.0507009873554805 if isinstance(module, nn.SELU) else float(x.grad.max())
    slope = x.grad / largest
    wanted = slope < SLOPE
    activation = activation_of(module)
    assert activation is not None
    assert activation.saturated is not None
    got = activation.saturated(y.detach())
    unclear = (slope - SLOPE).abs() < 1e-3
    assert (got == wanted)[~unclear].all()
    assert 0 < got.double().mean() < 1


@pytest.mark.parametrize("known", ACTIVATION_FUNCTIONS, ids=lambda known: known.module.__name__)
def test_every_function_does_what_its_module_does(known):
    x = torch.linspace(-4, 4, 81).reshape(9, 9)
    module = known.module(**dict(known.arguments)).eval()
    weight = (module.weight,) if isinstance(module, nn.PReLU) else ()
    if isinstance(module, nn.Threshold):  # the one whose functions have no defaults
        weight = module.threshold, module.value
    for function in known.functions:
        given = x.clone()
        with torch.no_grad():
            torch.testing.assert_close(function(given, *weight), module(x))
    assert known.of_module(module) == known.of_call((x,), {})


def test_arguments_of_a_call_decide_as_attributes_do():
    hardtanh = next(known for known in ACTIVATION_FUNCTIONS if known.module is nn.Hardtanh)
    wanted = hardtanh.of_module(nn.Hardtanh(-2, 3))
    for args, kwargs in (((-2, 3), {}), ((-2,), {"max_val": 3}), ((), {"min_val": -2, "max_val": 3, "inplace": True})):
        assert hardtanh.of_call((None, *args), kwargs) == wanted


def test_equal_activations_share_a_predicate():
    first, second, third = (activation_of(m) for m in (nn.Hardtanh(-1, 1), nn.Hardtanh(), nn.Hardtanh(0, 1)))
    assert first.saturated is second.saturated is not third.saturated


def test_a_subclass_is_known_by_its_base_and_others_are_not_known():
    class Mine(nn.ReLU):
        pass

    assert activation_of(Mine()).silent == 0
    assert activation_of(nn.LeakyReLU()) is None
    assert activation_of(type("NewGELUActivation", (nn.Module,), {})()).silent > 0
    assert activation_of(nn.Linear(1, 1)) is None


@pytest.mark.parametrize("module", [nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Hardswish()], ids=str)
def test_a_unit_is_dead_where_no_input_reaches_its_slope(module):
    silent = activation_of(module).silent
    liveness = Liveness()
    x = torch.stack([torch.full((9,), -40.0), torch.linspace(-40, 5, 9)], 1).requires_grad_()
    y = module(x)
    y.sum().backward()
    liveness.see(0, y.detach(), 1, silent)
    assert x.grad[:, 0].abs().max() < 1e-5
    assert liveness.end_step() == {0: 0.5}


steps = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=14)


@given(steps, steps)
def test_a_unit_is_dead_after_the_window_without_activation(first, second):
    """Two sites; the second is seen only in some steps. The reference looks at the whole history each time."""
    liveness = Liveness()
    seen: dict[int, list[list[bool]]] = {0: [], 1: []}
    for step, active in enumerate(first):
        present = {0: active} | ({1: second[step]} if step < len(second) and step % 3 != 1 else {})
        for site, units in present.items():
            seen[site].append(units)
            liveness.see(site, torch.tensor([units, [False] * 3], dtype=torch.float32), 1, 0.0)
        dead = liveness.end_step()
        assert dead.keys() == present.keys()
        for site in present:
            history = np.array(seen[site])[-WINDOW:]
            assert dead[site] == pytest.approx((~history.any(axis=0)).mean())


def test_several_outputs_of_a_step_count_as_one():
    liveness = Liveness()
    liveness.see(0, torch.tensor([[1.0, 0.0]]), 1, 0.0)
    liveness.see(0, torch.tensor([[0.0, 0.0]]), 1, 0.0)
    assert liveness.end_step() == {0: 0.5}
    assert liveness.end_step() == {}


def test_a_smooth_rectifier_is_steep_at_zero_however_small_its_input_is():
    x = 1e-10 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2] = -20.0
    liveness = Liveness()
    for _ in range(WINDOW):
        liveness.see(0, nn.functional.gelu(x), 1, activation_of(nn.GELU()).silent)
        dead = liveness.end_step()
    assert dead == {0: pytest.approx(1 / 3)}


def test_nan_is_not_silent():
    liveness = Liveness()
    liveness.see(0, torch.tensor([[float("nan"), 0.0]]), 1, 0.0)
    assert liveness.end_step() == {0: 0.5}


AXES = [
    ((5,), True, 0),
    ((5, 6), False, 1),
    ((5, 6, 7), False, 1),
    ((5, 6, 7), True, 2),
    ((5, 6, 7, 8), False, 1),
    ((5, 6, 7, 8), True, 3),
]


@pytest.mark.parametrize(("shape", "last", "axis"), AXES)
def test_units_are_channels_or_features(shape, last, axis):
    y = torch.zeros(shape)
    assert unit_axis(y, last) == axis
    y.select(axis, 2).fill_(1.0)
    liveness = Liveness()
    liveness.see(0, y, axis, 0.0)
    assert liveness.end_step() == {0: pytest.approx(1 - 1 / shape[axis])}


LAYERS = [
    (nn.Linear(1, 1), True),
    (nn.Conv1d(1, 1, 1), False),
    (nn.BatchNorm2d(1), False),
    (nn.LayerNorm(1), True),
    (nn.ReLU(), None),
]


@pytest.mark.parametrize(("layer", "last"), LAYERS)
def test_layers_tell_where_their_features_are(layer, last):
    assert features_last(layer) is last


def test_which_units_were_silent_can_be_asked_after_the_step():
    liveness = Liveness()
    liveness.see(3, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1, 0.0)
    liveness.see(1, torch.tensor([[0.0]]), 1, 0.0)
    liveness.end_step()
    assert [(site, silent.tolist()) for site, silent in liveness.silent()] == [(3, [False, True]), (1, [True])]
    liveness.end_step()
    assert liveness.silent() == []

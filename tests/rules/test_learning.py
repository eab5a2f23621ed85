import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.learning import (
    effective_update_ratios,
    has_optimizer,
    is_replaced,
    optimizer_of,
    reached,
    trainable_parameters,
    update_ratios,
)


def trained(weight, update, **more):
    return trace_of(
        weight_l2_norm=[weight], weight_update_l2_norm=[update], weight_grad_l2_norm=[1.0], numel=400, **more
    )


@pytest.mark.parametrize(
    ("about", "adaptive"),
    [({"type": "AdamW", "eps": 1e-8}, True), ({"type": "Lion", "betas": [0.9, 0.99]}, True), ({"type": "SGD"}, False)],
)
def test_an_optimizer_that_normalises_is_known_by_name_or_by_its_betas(about, adaptive):
    trace = trained(1.0, 1.0, meta={"optimizers": [about]})
    assert optimizer_of(trace).adaptive is adaptive
    assert optimizer_of(trace).eps == about.get("eps", 0.0)
    assert has_optimizer(trace)


def test_without_an_optimizer_nothing_is_assumed():
    assert optimizer_of(trained(1.0, 1.0)).name == ""
    assert not has_optimizer(trained(1.0, 1.0))


def test_the_update_ratio_is_norm_over_norm():
    trace = trained(4.0, 0.02)
    (parameter,) = trainable_parameters(trace)
    assert update_ratios(trace, parameter) == pytest.approx(0.005)


def test_a_weight_of_zero_has_no_update_ratio_but_an_effective_one():
    trace = trained(0.0, 0.1)
    (parameter,) = trainable_parameters(trace)
    assert np.isnan(update_ratios(trace, parameter)).all()
    # 400 elements of std 1/√(3·20): norm 20/√60
    assert effective_update_ratios(trace, parameter) == pytest.approx(0.1 / (20 / np.sqrt(60)), rel=1e-5)


def test_of_a_weight_larger_than_usual_the_effective_ratio_is_the_ratio():
    trace = trained(50.0, 5.0)
    (parameter,) = trainable_parameters(trace)
    assert effective_update_ratios(trace, parameter) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("module_type", "name", "mixes"),
    [
        ("Linear", "weight", True),
        ("Linear", "bias", False),
        ("LayerNorm", "weight", False),
        ("Linear", "bias_hh", False),
    ],
)
def test_biases_and_scales_of_norms_are_no_weights(module_type, name, mixes):
    trace = trace_of(types=module_type, names={"weight_grad": name}, weight_grad_l2_norm=[1.0])
    assert trainable_parameters(trace)[0].is_weight is mixes


@pytest.mark.parametrize(
    ("gradient", "arrived"),
    [
        ({"weight_grad_l2_norm": [np.nan, 0.0]}, True),
        ({"weight_grad_l2_norm": [np.nan, np.nan], "weight_grad_nonfinite_count": [np.nan, 3.0]}, True),
        ({"weight_grad_l2_norm": [np.nan, np.nan]}, False),
        ({"output_rms": [1.0, 1.0]}, True),
    ],
    ids=["exactly zero", "NaN", "none", "not recorded"],
)
def test_whether_a_gradient_reached_a_parameter(gradient, arrived):
    assert reached(trace_of(**gradient)) is arrived


@pytest.mark.parametrize(("update", "replaced"), [(2.0, True), (0.5, False)])
def test_a_weight_that_moves_by_its_own_norm_is_replaced(update, replaced):
    assert is_replaced(trained(1.0, update), "0", 0) is replaced
    assert not is_replaced(trained(0.0, update), "0", 0)

import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.learning import promised, trainable_parameters
from gradscope.rules.standstill import Why, motions_of, still_parts, still_throughout

MODULES = ["stem", "body", "head"]
BARS = {"ratio": 1e-4, "promise": 1e-4}


def trace(ratios, *, lr=0.1, name="SGD", eps=0.0, rms=1.0, loss=1.0, steps=20, rates=None):
    """Updates as shares of weights of norm 1, of 1000 elements; `rms` is that of the gradients."""
    ratios = np.broadcast_to(np.asarray(ratios, dtype=float), (steps, 3))
    rates = rates or [lr] * 3
    groups = [{"lr": r, "eps": eps, "parameters": [f"{m}.weight"]} for m, r in zip(MODULES, rates, strict=True)]
    return trace_of(
        modules=MODULES,
        weight_l2_norm=np.ones(3),
        weight_grad_rms=np.full(3, rms),
        weight_grad_l2_norm=np.full(3, rms * np.sqrt(1000)),
        weight_update_l2_norm=ratios,
        loss=loss,
        lr=lr,
        meta={"optimizers": [{"type": name, "lr": lr, "eps": eps, "groups": groups}]},
    )


def motions(found):
    return motions_of(found, trainable_parameters(found), 3)


def parts(found):
    bars = {"slow": 1e-3, "bar": 1e-5, "least": 1e-6}
    return {
        (part.why, part.minor): [m.parameter.module for m in part.motions]
        for part in still_parts(motions(found), **bars)
    }


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"lr": 1e-7, "name": "Adam"}, Why.RATE),
        ({"lr": 0.1, "rms": 1e-9}, Why.GRADIENT),
        ({"lr": 1e-3, "name": "Adam", "eps": 1e-8, "rms": 1e-10}, Why.EPS),
    ],
)
def test_the_whole_model_stands_still_for_a_reason(given, why):
    found = trace([1e-7, 1e-7, 1e-7], **given)
    still = still_throughout(found, motions(found), np.full(20, 1e-6), **BARS)
    assert (still.why, len(still.motions), still.first) == (why, 3, 0)
    assert still.largest == pytest.approx(1e-7)


def test_one_step_that_is_worth_something_is_enough():
    found = trace([1e-7, 1e-7, 1e-7])
    promises = np.where(np.arange(20) == 7, 1e-3, 1e-6)
    assert still_throughout(found, motions(found), promises, **BARS) is None
    moved = trace(np.where(np.arange(20)[:, None] == 7, 1e-3, 1e-7))
    assert still_throughout(moved, motions(moved), np.full(20, 1e-6), **BARS) is None


def test_what_a_step_is_worth_is_gradient_times_update_over_the_loss():
    found = trace([1e-3, 2e-3, 0.0], rms=0.5, loss=4.0)
    assert promised(found) == pytest.approx(np.full(20, 0.5 * np.sqrt(1000) * 3e-3 / 4))


def test_a_gradient_below_eps_is_told_by_its_rms_whatever_its_norm():
    found = trace([1e-7, 1e-7, 1e-7], lr=1e-3, name="Adam", eps=1e-8, rms=5e-9)  # norm 1.6e-7
    still = still_throughout(found, motions(found), np.full(20, 1e-6), **BARS)
    assert "an rms of at most 5.0e-09, below its eps of 1e-08" in still.cause(found)


def test_parts_stand_still_by_their_rate_or_their_gradient():
    assert parts(trace([1e-2, 1e-6, 1e-2], rates=[0.1, 1e-5, 0.1])) == {(Why.RATE, False): ["body"]}
    assert parts(trace([1e-2, 1e-7, 1e-2])) == {(Why.GRADIENT, True): ["body"]}
    assert parts(trace([1e-2, 1e-9, 1e-2])) == {(Why.GRADIENT, False): ["body"]}
    assert parts(trace([1e-2, 1e-3, 1e-2])) == {}


def test_without_a_rate_none_is_told():
    found = trace([1e-7, 1e-7, 1e-7], lr=np.nan)
    still = still_throughout(found, motions(found), np.full(20, 1e-6), **BARS)
    assert still.cause(found) == "The gradients have norms of no more than 3.2e+01."

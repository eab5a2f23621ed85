from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.accumulating_gradient import AccumulatingGradient

STEPS, D = 20, 3
N = np.arange(STEPS)[:, None] + np.zeros(D)
FALLING = np.linspace(2, 1, STEPS)
OPTIMIZER = {"optimizers": [{"type": "SGD"}]}


def trace(carried, *, loss=FALLING, applied=None, update=None, meta=OPTIMIZER):
    """Carried fractions of shape (step, parameter); each backward brings a gradient of 1."""
    one = np.ones((STEPS, D))
    return trace_of(
        weight_rms=one,
        weight_grad_l2_norm=one + N * (carried > 0),
        weight_grad_carried_fraction=carried,
        applied_grad_l2_norm=one if applied is None else applied,
        weight_update_l2_norm=one if update is None else update,
        loss=loss,
        meta=meta,
        modules=["body", "neck", "head"],
    )


NEVER = N / (N + 1)
CLEARED = np.zeros((STEPS, D))
BROKEN = {
    "never cleared": (NEVER, "", "Nothing clears .grad of the model"),
    "cleared every other step": (np.where(N % 2 == 1, 0.6, 0.0), "", "Not every step clears"),
    "one module left out": (np.where(np.arange(D) == 1, NEVER, 0.0), "neck", "Nothing clears .grad of neck"),
    "two at the end left out": (
        np.where(np.arange(D) >= 1, NEVER, 0.0),
        "head",
        "Nothing clears .grad of neck to head",
    ),
    "from the middle on": (np.where(N >= 10, 0.7, 0.0), "", "Not every step clears"),
}


@pytest.mark.parametrize(("carried", "module", "cause"), BROKEN.values(), ids=BROKEN)
def test_gradients_that_stay_are_found(carried, module, cause):
    (finding,) = AccumulatingGradient().check(trace(carried))
    assert finding.module == module
    assert finding.cause.startswith(cause)
    assert finding.measured > finding.threshold
    assert finding.first_step == np.flatnonzero((carried >= 0.1).any(axis=1))[0]


CLEAN = {
    "always cleared": trace(CLEARED),
    "once forgotten": trace(np.where(N == 7, 0.5, 0.0)),
    "a hundredth, as under a strong clip": trace(np.where(N > 0, 0.01, 0.0)),
    "never applied: another optimizer's turn": trace(
        np.where(N % 2 == 0, 0.6, 0.0), applied=np.where(N % 2 == 0, np.nan, 1.0)
    ),
    "without an optimizer, after what moved nothing": trace(
        np.where(N > 0, 0.6, 0.0), applied=np.full((STEPS, D), np.nan), update=np.zeros((STEPS, D)), meta={}
    ),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_what_is_cleared_or_meant_is_clean(found):
    try:
        assert list(AccumulatingGradient().check(found)) == []
    except NotJudged:
        assert not found.meta  # nothing has ever moved


def test_it_is_as_grave_as_what_becomes_of_the_loss():
    def severity(loss):
        (finding,) = AccumulatingGradient().check(trace(NEVER, loss=loss))
        return finding.severity

    assert severity(FALLING) is severity(np.nan) is Severity.WARNING
    assert severity(FALLING[::-1]) is severity(np.where(np.arange(STEPS) > 9, np.inf, 1.0)) is Severity.ERROR


def test_too_little_is_not_judged():
    with pytest.raises(NotJudged, match="needs 3 steps"):
        list(AccumulatingGradient().check(trace(np.where(N < 3, NEVER, np.nan))))


def test_gradients_that_an_optimizer_applies_which_was_not_attached_are_judged_too():
    unseen = np.full((STEPS, D), np.nan)
    moved = trace_of(
        weight_mean=N,
        weight_rms=N,
        weight_max=N,
        weight_grad_l2_norm=1 + N,
        weight_grad_carried_fraction=NEVER,
        applied_grad_l2_norm=unseen,
        loss=FALLING,
        meta=OPTIMIZER,
    )
    (finding,) = AccumulatingGradient().check(moved)
    assert finding.severity is Severity.WARNING
    still = trace_of(
        weight_mean=np.ones(D),
        weight_rms=np.ones(D),
        weight_max=np.ones(D),
        weight_grad_l2_norm=1 + N,
        weight_grad_carried_fraction=NEVER,
        applied_grad_l2_norm=unseen,
        meta=OPTIMIZER,
    )
    with pytest.raises(NotJudged):
        list(AccumulatingGradient().check(still))


def test_gradients_that_have_all_left_the_range_have_no_size_to_tell():
    found = trace(NEVER)
    norms = np.where(np.isnan(found.statistics["l2_norm"]), np.nan, np.inf)
    (finding,) = AccumulatingGradient().check(replace(found, statistics={**found.statistics, "l2_norm": norms}))
    assert finding.cause == "Nothing clears .grad of the model."

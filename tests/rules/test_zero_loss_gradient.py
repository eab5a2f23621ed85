from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.records import Event
from gradscope.rules.zero_loss_gradient import ZeroLossGradient

OPTIMIZER = {"optimizers": [{"type": "SGD"}]}
TYPES = ["Linear", "Tanh", "Linear", "Sigmoid"]
STEPS = 20
HALF = np.r_[np.ones(10), np.zeros(10)]


def trace(gradient, *, loss=0.7, output=1.0, **more):
    """Outputs of norm `output`, and `gradient`: the norms of ∂L/∂y of the last layer, and of all before it."""
    gradient = np.broadcast_to(np.asarray(gradient, dtype=float).reshape(-1, 1), (STEPS, len(TYPES)))
    weights = np.where(np.array(TYPES) == "Linear", 1.0, np.nan)
    return trace_of(
        types=TYPES,
        output_l2_norm=np.full((STEPS, len(TYPES)), output),
        output_grad_l2_norm=gradient,
        weight_l2_norm=weights,
        loss=loss,
        meta=OPTIMIZER,
        **more,
    )


def with_last(value, gradient=0.0):
    """The last activation gets a gradient of its own."""
    values = np.full((STEPS, len(TYPES)), gradient)
    values[:, -1] = value
    return trace_of(
        types=TYPES,
        output_l2_norm=np.ones((STEPS, len(TYPES))),
        output_grad_l2_norm=values,
        weight_l2_norm=np.where(np.array(TYPES) == "Linear", 1.0, np.nan),
        loss=0.3,
        meta=OPTIMIZER,
    )


BROKEN = {
    "exactly zero": trace(np.zeros(STEPS)),
    "zero loss": trace(np.zeros(STEPS), loss=0.0),
    "a millionth of a millionth": trace(np.full(STEPS, 1e-12)),
    "large outputs, a large loss": trace(np.full(STEPS, 1e-9), loss=1e6, output=1e5),
    "a saturated last activation": with_last(1e-2, 1e-12),
}
CLEAN = {
    "a gradient as it should be": trace(np.full(STEPS, 0.1)),
    "a loss times 1e-12": trace(np.full(STEPS, 1e-13), loss=7e-13),
    "a margin that training has met": trace(HALF, loss=np.r_[np.linspace(1, 0.01, 10), np.zeros(10)]),
    "a margin that one large step has met": trace(
        HALF, loss=HALF, weight_grad_l2_norm=np.full(4, 2.0), weight_update_l2_norm=np.full(4, 0.1)
    ),
    "a mistake now and then": trace(np.r_[[1, 0] * 4, np.zeros(12)], loss=np.r_[[1, 0] * 4, np.zeros(12)]),
    "a reward that comes more often": trace(np.r_[np.zeros(18), 1, 1], loss=1.0),
    "a reward now and then": trace(np.r_[np.zeros(19), 1.0], loss=np.r_[np.zeros(19), 1.0]),
    "the loss was not recorded": trace(np.full(STEPS, 1e-12), loss=np.nan),
    "not a number": trace(np.zeros(STEPS), output_grad_nonfinite_count=np.ones((STEPS, 4))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_loss_that_hands_back_nothing_is_found(name):
    (finding,) = ZeroLossGradient().check(BROKEN[name])
    assert (finding.module, finding.severity, finding.first_step) == ("2", Severity.ERROR, 0)
    assert finding.measured <= finding.threshold
    assert "20 recorded steps" in finding.message


@pytest.mark.parametrize("name", CLEAN)
def test_a_loss_that_hands_back_something_is_clean(name):
    assert list(ZeroLossGradient().check(CLEAN[name])) == []


def test_a_loss_that_is_cut_off_in_the_middle_of_the_run_is_found():
    moving = {"weight_grad_l2_norm": np.full(4, 2.0), "weight_update_l2_norm": np.full(4, 0.01)}
    (finding,) = ZeroLossGradient().check(trace(HALF, loss=HALF, **moving))
    assert (finding.first_step, finding.last_step) == (10, 19)
    assert "is exactly zero in 10 recorded steps" in finding.message
    assert "zero since step 10" in finding.cause
    (clamped,) = ZeroLossGradient().check(trace(HALF, loss=np.r_[np.linspace(1, 5, 10), np.full(10, 5.0)]))
    assert "The loss is 5 in every step" in clamped.cause


def test_a_margin_that_few_batches_ever_break_is_found():
    rare = np.isin(np.arange(STEPS), [7, 9]) * 1.0
    (finding,) = ZeroLossGradient().check(trace(rare, loss=rare / 100))
    assert "is exactly zero in 18 recorded steps" in finding.message
    assert list(ZeroLossGradient().check(trace(rare, loss=rare))) == []  # the few mistakes of one that learns at once


def test_the_cause_tells_what_the_loss_does():
    (met,) = ZeroLossGradient().check(trace(np.zeros(STEPS), loss=0.0))
    (held,) = ZeroLossGradient().check(trace(np.zeros(STEPS), loss=0.1))
    (rounded,) = ZeroLossGradient().check(trace(np.zeros(STEPS), loss=1 + np.arange(STEPS) % 3))
    assert "margin" in met.cause
    assert "0.1 in every step" in held.cause
    assert "argmax" in rounded.cause


def test_a_small_gradient_counts_where_no_weight_moves():
    def moving(update):
        more = {"weight_grad_l2_norm": np.ones(4), "weight_update_l2_norm": np.full((STEPS, 4), update)}
        return trace(np.full(STEPS, 3e-5), **more)

    (finding,) = ZeroLossGradient().check(moving(1e-9))
    assert "at most 4e-05 of the loss" in finding.message
    assert list(ZeroLossGradient().check(moving(1e-3))) == []


def unreached(**meta):
    return trace_of(
        types=TYPES, output_l2_norm=np.ones((STEPS, 4)), weight_l2_norm=np.ones(4), loss=0.7, meta={**OPTIMIZER, **meta}
    )


def test_where_no_backward_reached_the_model_the_loss_does_not_hang_on_it():
    (finding,) = ZeroLossGradient().check(unreached())
    assert "No backward pass reached the model in 20 recorded steps" in finding.message
    assert "detach()" in finding.remedy


def test_what_the_model_itself_cuts_is_no_fault_of_the_loss():
    cut = {"function": "detach", "file": "net.py", "line": 3, "modules": ["2"]}
    assert list(ZeroLossGradient().check(unreached(cuts=[cut]))) == []


def test_steps_that_a_scaler_skipped_are_not_judged():
    steps = tuple(Event(step=step, kind="step-skipped") for step in range(STEPS - 2))
    with pytest.raises(NotJudged, match="3 steps with outputs that are not empty, the trace has 2"):
        list(ZeroLossGradient().check(replace(unreached(), events=steps)))


def test_an_empty_batch_is_not_judged():
    empty = trace(np.zeros(STEPS), loss=0.0, output_numel=np.zeros(4))
    with pytest.raises(NotJudged, match="outputs that are not empty, the trace has 0"):
        list(ZeroLossGradient().check(empty))


def test_signals_that_die_away_inside_the_model_are_no_fault_of_the_loss():
    def with_sizes(*rms):
        sizes = np.array(rms)
        more = {"output_rms": sizes, "output_numel": np.full(4, 100.0)}
        return trace(np.full(STEPS, 0.1), output=1e-8, **more)

    assert list(ZeroLossGradient().check(with_sizes(1.0, 1e-3, 1e-6, 1e-9))) == []
    assert len(list(ZeroLossGradient().check(with_sizes(1e-9, 1e-9, 1e-9, 1e-9)))) == 1


def test_without_gradients_in_the_trace_nothing_is_judged():
    parameters_alone = trace_of(output_l2_norm=np.ones((STEPS, 2)), weight_grad_l2_norm=np.ones(2), meta=OPTIMIZER)
    no_optimizer = trace_of(output_l2_norm=np.ones((STEPS, 2)))
    for one in (parameters_alone, no_optimizer):
        with pytest.raises(NotJudged, match="needs the gradient of what modules return"):
            list(ZeroLossGradient().check(one))


def test_what_is_told_is_of_the_steps_that_show_it():
    gradient = np.zeros((100, 4))
    gradient[60] = 0.3
    (finding,) = ZeroLossGradient().check(
        trace_of(types=TYPES, output_l2_norm=np.ones(4), output_grad_l2_norm=gradient, loss=0.5, meta=OPTIMIZER)
    )
    assert "is exactly zero in 99 recorded steps" in finding.message

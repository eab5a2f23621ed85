from dataclasses import replace

import numpy as np
import pytest
from builders import joined, trace_of

from gradscope.findings import Severity
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.spike import SPIKE, spike

STEPS, AT = 40, 20
USUAL = 1 + 0.3 * np.sin(np.arange(STEPS))


def at(value, usual=USUAL, row=AT, until=None):
    """`usual`, but `value` in that step, or from there on until another."""
    values = np.broadcast_to(np.asarray(usual, dtype=float), (STEPS,)).copy()
    values[row : until or row + 1] = value
    return values


def trace(norm, moved, loss, *, lr=None):
    """Norms of all gradients, and by how much of itself one weight of two moves."""
    weights = trace_of(
        weight_l2_norm=np.full((STEPS, 2), 20.0),
        weight_grad_l2_norm=np.ones((STEPS, 2)),
        weight_update_l2_norm=20 * np.stack([moved, moved / 10], axis=1),
        loss=loss,
    )
    total = trace_of(modules=[""], names={"total_norm": "applied"}, total_norm_l2_norm=norm[:, None])
    found = joined(weights, total)
    return replace(found, per_step={**found.per_step, "lr": np.full(STEPS, 0.1) if lr is None else lr})


LOST = np.where(np.arange(STEPS) > AT, 50.0, 2.0)
JUMP, MOVES = at(2e4), at(300.0, 1e-2)
BROKEN = {
    "one batch, and the loss stays high": trace(JUMP, MOVES, at(1e8, LOST)),
    "and the loss is no number": trace(JUMP, MOVES, np.where(np.arange(STEPS) > AT + 1, np.nan, 2.0)),
    "what follows is larger still": trace(np.where(np.arange(STEPS) > AT, 1e9, JUMP), MOVES, LOST),
    "in the fourth step": trace(at(1e5, row=3), at(9.0, 1e-2, row=3), np.where(np.arange(STEPS) > 3, 50.0, 2.0)),
}
CLEAN = {
    "as usual": trace(USUAL, np.full(STEPS, 1e-2), 2.0),
    "clipped": trace(USUAL, np.full(STEPS, 1e-2), at(1e8, 2.0)),
    "an optimizer that divides by its size": trace(JUMP, at(0.05, 1e-2), at(1e8, 2.0)),
    "the run gets over it": trace(JUMP, at(1.5, 1e-2), np.where(np.arange(STEPS) > AT, 0.5, 2.0)),
    "a rate that is too high": trace(USUAL, at(300.0, 1e-2), LOST),
    "a rate that has been raised": trace(JUMP, MOVES, LOST, lr=at(10.0, 0.1, until=STEPS)),
    "growing steps lead to it": trace(at(30.0, JUMP, AT - 1), at(0.3, MOVES, AT - 1), LOST),
    "hundredfold": trace(at(100.0), at(3.0, 1e-2), LOST),
    "in the second step": trace(at(1e5, row=1), at(9.0, 1e-2, row=1), np.where(np.arange(STEPS) > 1, 50.0, 2.0)),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_a_batch_whose_gradient_is_far_beyond_the_rest_is_found(found):
    (finding,) = ExplodingGradient().check(found)
    assert (finding.module, finding.severity) == ("", Severity.ERROR)
    assert finding.measured >= finding.threshold == np.log10(SPIKE)
    assert f"batch of step {finding.first_step}" in finding.cause


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_what_has_another_cause_or_no_effect_is_clean(found):
    assert spike(found) is None


def test_the_step_its_factor_and_the_weight_are_told():
    peak = spike(BROKEN["one batch, and the loss stays high"])
    assert (peak.row, peak.module) == (AT, "0")
    assert peak.before == pytest.approx(max(USUAL[AT - 10 : AT]))
    assert peak.moved == pytest.approx(300)
    (finding,) = ExplodingGradient().check(BROKEN["one batch, and the loss stays high"])
    assert "whose loss is 5e+07 times that of those before" in finding.cause


def test_without_norms_or_updates_nothing_is_said():
    assert spike(trace_of(output_rms=np.ones(3))) is None
    assert spike(trace_of(modules=[""], names={"total_norm": "raw"}, total_norm_l2_norm=JUMP[:, None])) is None

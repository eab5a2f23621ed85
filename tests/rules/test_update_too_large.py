from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.update_too_large import UpdateTooLarge

FALLING = np.linspace(2.0, 0.1, 20)


def trace(ratio, *, weight=100.0, loss=np.nan, steps=20, **more):
    """Update ratios of two layers, whose norms are far above what is usual for 400 elements."""
    ratio = np.broadcast_to(np.asarray(ratio, dtype=float), (steps, 2))
    return trace_of(
        numel=400,
        weight_l2_norm=np.full(2, weight),
        weight_grad_l2_norm=np.ones(2),
        weight_update_l2_norm=weight * ratio,
        loss=loss,
        **more,
    )


def spike(height, at=0):
    return np.where(np.arange(20)[:, None] == at, [height, 1e-3], 1e-3)


def recovers(peak, *, steps=20):
    """A loss that jumps to `peak` times its start for a step and falls all the same."""
    loss = np.linspace(1.0, 0.05, steps)
    loss[1] = peak
    return loss


CLEAN = {
    "usual": trace([1e-3, 1e-3]),
    "Adam's first steps": trace(np.r_[[[0.4, 0.2]] * 3, [[0.05, 0.02]] * 17], loss=FALLING),
    "one step of two fifths": trace(spike(0.4), loss=np.full(20, 2.0)),
    "a weight that starts at zero": trace_of(
        numel=400, weight_l2_norm=[1e-8], weight_grad_l2_norm=[1.0], weight_update_l2_norm=[0.5]
    ),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_steps_that_leave_the_weight_what_it_is_are_clean(found):
    assert list(UpdateTooLarge().check(found)) == []


def test_a_step_that_replaces_a_weight_is_found_at_the_weight_that_moves_most():
    (finding,) = UpdateTooLarge().check(trace(spike(3.0, at=4), loss=np.r_[np.ones(5), np.full(15, 7.0)]))
    assert (finding.module, finding.first_step, finding.last_step) == ("0", 4, 4)
    assert (finding.severity, finding.measured) == (Severity.ERROR, pytest.approx(3.0))
    assert finding.message.endswith("The loss rose from 1 to 7 and ended at 7.")
    assert "from 0.1 to about 3e-04" in finding.remedy  # 0.1 · 0.01 / 3


def test_it_began_where_the_steps_began_to_grow():
    growing = np.r_[np.full(10, 1e-3), 0.02 * 2.0 ** np.arange(10)][:, None] * [1, 0.1]
    (finding,) = UpdateTooLarge().check(trace(growing, loss=np.r_[np.ones(12), 2.0 ** np.arange(8)]))
    assert finding.first_step == 13  # 0.02 · 2³ = 0.16; the first above 2 is step 17
    assert "by 0.16 of its norm at step 13" in finding.cause


def test_moderate_steps_that_last_are_an_error_where_the_loss_rises_with_them():
    (finding,) = UpdateTooLarge().check(trace([0.2, 1e-3], loss=np.r_[1.0, np.full(19, 1.8)]))
    assert (finding.severity, finding.threshold) == (Severity.ERROR, 0.15)
    assert list(UpdateTooLarge().check(trace([0.2, 1e-3], loss=FALLING))) == []


def test_ten_steps_that_replace_a_weight_are_an_error_in_a_long_run_too():
    at = np.arange(120)
    late = np.where((at >= 100) & (at < 112), np.where(at % 2, 0.3, 0.1), 0.01)[:, None] * [1, 0.1]
    (finding,) = UpdateTooLarge().check(trace(late, steps=120, loss=np.where(at <= 105, 0.5, 2.0)))
    assert (finding.severity, finding.threshold, finding.first_step) == (Severity.ERROR, 0.15, 100)
    assert list(UpdateTooLarge().check(trace(late, steps=120, loss=np.where(at <= 105, 0.5, 0.2)))) == []
    spikes = np.where(at % 20 == 0, 0.3, 0.01)[:, None] * [1, 0.1]
    assert list(UpdateTooLarge().check(trace(spikes, steps=120, loss=np.where(at <= 105, 0.5, 2.0)))) == []


@pytest.mark.parametrize(
    ("ratio", "loss", "severity"),
    [
        (3.0, FALLING, Severity.INFO),
        (3.0, recovers(6.0), Severity.INFO),
        (3.0, recovers(500.0), Severity.WARNING),
        (6.0, recovers(6.0), Severity.WARNING),
        (3.0, np.r_[1.0, np.full(4, 6.0), np.linspace(1, 0.3, 15)], Severity.WARNING),
        (3.0, np.r_[1.0, np.full(19, 2.0)], Severity.ERROR),
        (0.6, np.r_[1.0, np.full(19, 2.0)], Severity.ERROR),
        (6.0, np.full(20, 2.0), Severity.WARNING),
        (12.0, FALLING, Severity.WARNING),
        (3.0, np.r_[np.full(5, 2.0), np.full(15, np.inf)], Severity.ERROR),
        (3.0, np.nan, Severity.WARNING),
    ],
    ids=[
        "learned all the same", "a short spike", "a high spike", "far, and a spike", "a long spike", "stuck above",
        "half of the weight, and stuck above", "far, and no progress", "overwritten", "diverged", "loss unknown",
    ],
)  # fmt: skip
def test_severity_follows_what_became_of_the_loss(ratio, loss, severity):
    (finding,) = UpdateTooLarge().check(trace(spike(ratio), loss=loss))
    assert finding.severity is severity


@pytest.mark.parametrize("ratio", [0.8, 9.0])
@pytest.mark.parametrize(("rate", "severity"), [(1e-4, Severity.WARNING), (0.05, Severity.INFO)])
def test_one_group_alone_that_throws_its_weights_away_is_a_mistake(rate, severity, ratio):
    groups = [{"lr": rate, "parameters": ["1.weight"]}, {"lr": 0.1, "parameters": ["0.weight"]}]
    meta = {"optimizers": [{"type": "Adam", "lr": rate, "groups": groups}]}
    (finding,) = UpdateTooLarge().check(trace(spike(ratio), loss=FALLING, lr=rate, meta=meta))
    assert (finding.module, finding.severity) == ("0", severity)
    assert ("the rate of its group is 1000 times" in finding.cause) == (severity is Severity.WARNING)
    assert "at a learning rate of 0.1 moves" in finding.cause


def test_a_schedule_that_raised_the_rate_is_named():
    found = trace(spike(9.0, at=8), loss=np.r_[np.ones(9), np.full(11, 9.0)])
    rate = np.where(np.arange(20) < 8, 1e-3, 1.0)
    (finding,) = UpdateTooLarge().check(replace(found, per_step={**found.per_step, "lr": rate}))
    assert "at step 8, after 0.001 in the steps before." in finding.cause


def test_without_updates_there_is_nothing_to_judge():
    with pytest.raises(NotJudged, match="needs the update"):
        list(UpdateTooLarge().check(trace([np.nan, np.nan])))


def test_weights_that_are_moved_by_hand_have_no_learning_rate_to_tell():
    (finding,) = UpdateTooLarge().check(trace(spike(2.5), lr=np.nan))
    assert "nan" not in finding.cause + finding.remedy
    assert finding.remedy == "Divide the step of 0.weight by 250, where it would be 1 % of the weight."

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


CLEAN = {
    "usual": trace([1e-3, 1e-3]),
    "Adam's first steps": trace(np.r_[[[0.4, 0.2]] * 3, [[0.05, 0.02]] * 17]),
    "one step of half": trace(spike(0.5)),
    "a weight that starts at zero": trace_of(
        numel=400, weight_l2_norm=[1e-8], weight_grad_l2_norm=[1.0], weight_update_l2_norm=[0.5]
    ),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_steps_that_leave_the_weight_what_it_is_are_clean(found):
    assert list(UpdateTooLarge().check(found)) == []


def test_a_step_that_replaces_a_weight_is_found_at_the_weight_that_moves_most():
    (finding,) = UpdateTooLarge().check(trace(spike(3.0, at=4)))
    assert (finding.module, finding.first_step, finding.last_step) == ("0", 4, 4)
    assert finding.measured == pytest.approx(3.0)
    assert "learning rate to about 3e-04" in finding.remedy  # 0.1 · 0.01 / 3


def test_large_steps_all_along_are_an_error():
    (finding,) = UpdateTooLarge().check(trace([0.4, 1e-3]))
    assert finding.severity is Severity.ERROR
    assert "In 20 of 20 steps" in finding.message


@pytest.mark.parametrize(
    ("loss", "severity"),
    [
        (FALLING, Severity.INFO),
        (np.linspace(2, 1, 20), Severity.WARNING),
        (np.full(20, 2.0), Severity.ERROR),
        (np.r_[np.full(5, 2.0), np.full(15, np.nan)], Severity.ERROR),
        (np.nan, Severity.WARNING),
    ],
    ids=["learned all the same", "learned worse", "stuck", "diverged", "loss unknown"],
)
def test_severity_follows_what_became_of_the_loss(loss, severity):
    (finding,) = UpdateTooLarge().check(trace(spike(3.0), loss=loss))
    assert finding.severity is severity


def test_without_updates_there_is_nothing_to_judge():
    with pytest.raises(NotJudged, match="needs the update"):
        list(UpdateTooLarge().check(trace([np.nan, np.nan])))

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.loss_divergence import LossDivergence

T = np.arange(40)
BROKEN = {
    "grows without end": (1.1**T, Severity.WARNING),
    "overflows": (2.0 ** np.minimum(T, 30), Severity.ERROR),
    "jumps and stays": (np.where(T < 20, 0.7, 30.0), Severity.WARNING),
    "from below zero": (np.where(T < 20, -1 + 0.1 * np.sin(T), 50.0), Severity.WARNING),
}
CLEAN = {
    "falls": 0.9**T,
    "noise": 1 + 0.5 * np.sin(T),
    "a peak that heals": np.where((T > 10) & (T < 15), 100.0, 1.0),
    "an opponent gets better": 0.7 + 0.05 * T,
    "zero": np.zeros(40),
    "crosses zero": np.linspace(-1, 1, 40),
    "becomes NaN": np.where(T < 30, 1.0, np.nan),
}


def check(loss):
    return list(LossDivergence().check(trace_of(steps=len(loss), output_rms=[1.0], loss=loss)))


@pytest.mark.parametrize(("loss", "severity"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_loss_that_ends_far_above_its_beginning_is_found(loss, severity, scale):
    (found,) = check(loss * scale)
    assert found.severity is severity
    assert found.measured > found.threshold
    assert found.first_step <= 20


@pytest.mark.parametrize("loss", CLEAN.values(), ids=CLEAN)
def test_a_healthy_loss_is_not_found(loss):
    assert check(loss) == []


def test_the_onset_is_where_it_leaves_the_level_of_the_beginning():
    (found,) = check(np.where(T < 20, 1.0, 100.0))
    assert found.first_step == 20
    assert "from 1 to 100" in found.message
    assert "from 1 to 100 within one step" in found.cause


def test_too_few_losses_are_not_judged_and_a_run_without_a_loss_is_no_concern():
    with pytest.raises(NotJudged, match="needs the loss of 6 steps"):
        check(np.ones(5))
    assert not LossDivergence().concerns(trace_of(output_rms=[1.0]))
    assert LossDivergence().concerns(trace_of(output_rms=[1.0], loss=1.0))

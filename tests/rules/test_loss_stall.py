import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.loss_stall import LossStall

T = np.arange(80)
NOISE = np.random.default_rng(0).standard_normal(80)
BROKEN = {
    "chance": 0.69 + 0.01 * NOISE,
    "the same in every step": np.full(80, 2.3),
    "rises": 1 + 0.01 * T,
    "falls less than its noise": 1 - 1e-4 * T + 0.1 * NOISE,
}
CLEAN = {
    "falls": 0.98**T,
    "falls little, but surely": 1 - 1e-4 * T + 1e-4 * NOISE,
    "falls late": np.where(T < 55, 1.0, 0.5),
    "zero": np.zeros(80),
}


def check(loss):
    return list(LossStall().check(trace_of(steps=len(loss), output_rms=[1.0], loss=loss)))


@pytest.mark.parametrize("loss", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_loss_that_stays_is_worth_knowing_and_no_more(loss, scale):
    (found,) = check(loss * scale)
    assert found.severity is Severity.INFO
    assert found.measured < found.threshold


@pytest.mark.parametrize("loss", CLEAN.values(), ids=CLEAN)
def test_a_loss_that_falls_is_not_found(loss):
    assert check(loss) == []


def test_welch_s_standard_errors_by_a_slow_implementation():
    loss = 1 + 0.1 * NOISE
    (found,) = check(loss)
    head, tail = loss[:20], loss[60:]
    errors = [sum((x - sum(p) / 20) ** 2 for x in p) / 19 / 20 for p in (head, tail)]
    assert found.measured == pytest.approx((sum(head) / 20 - sum(tail) / 20) / sum(errors) ** 0.5)


def test_short_runs_and_those_without_a_loss_are_no_concern():
    assert not LossStall().concerns(trace_of(output_rms=[1.0]))
    assert not LossStall().concerns(trace_of(steps=19, output_rms=[1.0], loss=1.0))
    assert LossStall().concerns(trace_of(steps=20, output_rms=[1.0], loss=1.0))
    with pytest.raises(NotJudged, match="needs the loss of 20 steps, the trace has 19"):
        check(np.ones(19))

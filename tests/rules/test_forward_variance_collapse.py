import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.forward_variance_collapse import ForwardVarianceCollapse

D = 10


def trace(std, grad=None, rms=0.2, types="Linear"):
    std = np.asarray(std, dtype=float)
    more = {} if grad is None else {"output_grad_l2_norm": grad}
    return trace_of(steps=20, types=types, numel=400, weight_rms=np.full(std.shape[-1], rms), output_std=std, **more)


def along(gain, layers=D):
    return gain ** np.arange(layers)


BROKEN = {
    "a tenth per layer": trace(along(0.1), rms=0.02),
    "hidden by biases": trace(np.ones(D), grad=along(0.1)[::-1], rms=0.02),
    "then flat": trace(np.r_[along(0.1, 6), np.full(4, 1e-6)], rms=0.02),
}
CLEAN = {
    "kept": trace(np.ones(D)),
    "Xavier-Tanh": trace(along(0.9)),
    "saturating activations, weights as asked": trace(np.ones(D), grad=along(0.1)[::-1], rms=0.22),
    "small weights, but the gradient is kept": trace(np.ones(D), grad=np.ones(D), rms=0.02),
    "a small head": trace(np.r_[np.ones(D - 1), 1e-4]),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_a_signal_that_dies_out_is_found(found):
    (finding,) = ForwardVarianceCollapse().check(found)
    assert finding.measured >= finding.threshold
    assert finding.module == "0"
    assert "0.089 times the scale" in finding.cause


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_a_signal_that_arrives_is_clean(found):
    assert list(ForwardVarianceCollapse().check(found)) == []


def test_the_remedy_gives_the_std_that_the_activation_asks_for():
    (finding,) = ForwardVarianceCollapse().check(trace(along(0.1), rms=0.02))
    assert "a std of 0.22 keeps the spread" in finding.remedy
    assert finding.severity is Severity.ERROR


def test_three_layers_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="the trace has 3"):
        list(ForwardVarianceCollapse().check(trace(along(0.01, 3))))

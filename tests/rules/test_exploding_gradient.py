import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.exploding_gradient import ExplodingGradient

D = 12


def trace(norms, rms=0.2, **more):
    norms = np.asarray(norms, dtype=float)
    layers = norms.shape[-1]
    return trace_of(steps=20, numel=400, weight_rms=np.full(layers, rms), output_grad_l2_norm=norms, **more)


def towards_input(gain, layers=D):
    return gain ** np.arange(layers)[::-1]


late = np.arange(20)[:, None] >= 10
BROKEN = {
    "twice the He scale": towards_input(2.0, 8),
    "tenfold": towards_input(10.0),
    "three decades made by training": np.where(late, towards_input(2.0, 12), 1.0),
}
CLEAN = {
    "preserved": towards_input(1.0),
    "BatchNorm with ReLU": towards_input(1.21, 30),
    "learned to grow a little": np.where(late, towards_input(2.0, 7), 1.0),
    "one spike": np.where(np.arange(20)[:, None] == 9, towards_input(10.0), 1.0),
    "one large layer": np.r_[np.full(6, 1e5), np.ones(6)],
}


@pytest.mark.parametrize("norms", BROKEN.values(), ids=BROKEN)
def test_a_gradient_that_grows_layer_by_layer_is_found(norms):
    (finding,) = ExplodingGradient().check(trace(norms))
    assert finding.measured >= finding.threshold
    assert finding.module == "0"


@pytest.mark.parametrize("norms", CLEAN.values(), ids=CLEAN)
def test_what_keeps_its_gradient_is_clean(norms):
    assert list(ExplodingGradient().check(trace(norms))) == []


@pytest.mark.parametrize(("gain", "moved", "found"), [(10.0, 30.0, True), (10.0, 0.01, False), (1.7, 30.0, False)])
def test_growth_counts_though_the_step_that_it_makes_ends_it(gain, moved, found):
    """It is there in the first step alone, and more than three decades; then the weights are others."""
    norms = np.where(np.arange(20)[:, None] < 1, towards_input(gain, 8), 1.0)
    sizes = {"weight_l2_norm": np.ones(8), "weight_update_l2_norm": np.where(np.arange(8) < 2, moved, 1e-3)}
    findings = list(ExplodingGradient().check(trace(norms, **sizes)))
    assert [(f.module, f.first_step, f.last_step, f.severity) for f in findings] == [
        ("0", 0, 0, Severity.ERROR)
    ] * found


def test_it_begins_where_the_explosion_did_though_a_smaller_growth_elsewhere_lasts_longer():
    """The first step grows over all layers; two later ones by two decades over the last layers alone."""
    later = np.minimum(towards_input(3.0, 8), towards_input(3.0, 8)[3])
    norms = np.where(
        np.arange(20)[:, None] < 1, towards_input(10.0, 8), np.where(np.arange(20)[:, None] < 3, later, 1.0)
    )
    sizes = {"weight_l2_norm": np.ones(8), "weight_update_l2_norm": np.where(np.arange(8) < 2, 30.0, 1e-3)}
    (finding,) = ExplodingGradient().check(trace(norms, **sizes))
    assert (finding.module, finding.first_step, finding.last_step) == ("0", 0, 0)


def test_severity_grows_with_the_decades():
    severities = [next(ExplodingGradient().check(trace(towards_input(g)))).severity for g in (2.0, 4.0)]
    assert severities == [Severity.WARNING, Severity.ERROR]


def test_weights_that_were_too_large_from_the_start_are_named():
    (finding,) = ExplodingGradient().check(trace(towards_input(4.0), rms=1.0))
    assert "4.5 times the scale" in finding.cause
    assert "Draw the weights smaller" in finding.remedy


def test_the_first_layer_with_weights_so_large_is_named():
    norms = np.r_[1, 1, 1, towards_input(4.0, 9) / 4**8]
    large = {"weight_rms": np.where(np.arange(D) < 4, 0.2, 1.0), "output_grad_l2_norm": norms}
    (finding,) = ExplodingGradient().check(trace_of(steps=20, numel=400, **large))
    assert finding.module == "4"
    assert "4 is the first that makes it larger" in finding.cause
    assert "4 has an rms of 1" in finding.remedy


def test_three_layers_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="the trace has 3"):
        list(ExplodingGradient().check(trace(towards_input(9.0, 3))))

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.saturation import Saturation

NAN = np.nan
TYPES = ["Linear", "Tanh", "Linear", "Sigmoid", "Linear", "Tanh"]


def trace(saturated, steps=20, **more):
    """One share for each of three bounded activations, each behind a Linear; the last is the model's output."""
    share = np.full((steps, 6), NAN)
    share[:, 1::2] = saturated
    return trace_of(
        types=TYPES,
        weight_rms=[0.2, NAN] * 3,
        output_rms=[12.0, 1.0] * 3,
        output_saturated_fraction=share,
        **more,
    )


heals = np.where(np.arange(20)[:, None] < 8, [0.9, 0, 0], [0.2, 0, 0])
CLEAN = {
    "steep": trace([0.1, 0.3, 0.2]),
    "half": trace([0.5, 0.6, 0.2]),
    "only the output": trace([0.1, 0.1, 1.0]),
    "heals": trace(heals),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_activations_that_still_have_a_slope_are_clean(found):
    assert list(Saturation().check(found)) == []


@pytest.mark.parametrize(("share", "severity"), [(0.8, Severity.WARNING), (0.99, Severity.ERROR)])
def test_an_activation_stuck_at_its_bounds_is_found(share, severity):
    (finding,) = Saturation().check(trace([share, 0.1, 0.1]))
    assert (finding.module, finding.severity) == ("1", severity)
    assert "0 gives it values with an rms of 12" in finding.cause
    assert "by 12" in finding.remedy


def gate(given):
    found = trace_of(
        types=["Linear", "Linear", "Sigmoid", "Linear"],
        numel=400,
        weight_rms=[0.2, 0.2, NAN, 0.2],
        output_rms=np.ones(4),
        output_saturated_fraction=[NAN, NAN, 0.99, NAN],
        output_grad_l2_norm=[1.0, 0.01, 0.2, 1.0],
        input_grad_l2_norm=[NAN, given, 0.01, 1.0],
    )
    return list(Saturation().check(found))


def test_a_gate_beside_a_path_that_carries_the_gradient_may_be_closed():
    assert gate(given=1.0) == []
    assert [finding.module for finding in gate(given=0.01)] == ["2"]


def test_rectifiers_alone_cannot_saturate():
    with pytest.raises(NotJudged, match="needs a bounded activation before the last layer"):
        list(Saturation().check(trace_of(types=["Linear", "ReLU"], output_rms=np.ones(2), weight_rms=[1.0, NAN])))

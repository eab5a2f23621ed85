import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.low_precision_overflow import LowPrecisionOverflow
from gradscope.rules.non_finite import NonFinite

BORN = 6
D = 4
MODULES = ["a", "b", "c", "head"]
HALF = {"dtypes": dict.fromkeys(MODULES, "float16")}


def trace(*, peak=1.0, meta=HALF, largest=1.0, logit=np.nan, weight=1.0, numel=1000.0, **bad):
    """Counts of non-finite elements from step `BORN` on, by quantity; `peak` of the finite ones where there are any."""
    sick = np.arange(10)[:, None] >= BORN
    measured = {}
    for quantity in ("output", "output_grad", "weight_grad"):
        broken = np.where(sick, bad.get(quantity, np.zeros(D)), 0)
        measured[f"{quantity}_rms"] = np.full(D, largest / 3)
        measured[f"{quantity}_abs_max"] = np.where(broken > 0, peak, largest)
        measured[f"{quantity}_nonfinite_count"] = broken
    measured["output_max_logit"] = np.where(np.arange(D) == 1, logit, np.nan) + np.zeros((10, 1))
    measured["weight_rms"] = np.full(D, weight)
    return trace_of(modules=MODULES, meta=meta, numel=numel, **measured)


FORWARD = [0, 7, 7, 7]
BACKWARD = [7, 7, 7, 7]
BROKEN = {
    "its finite neighbours are large": (trace(output=FORWARD, peak=3e4), "b", "The output of b leaves the range"),
    "it was large before": (trace(output=FORWARD, peak=np.nan, largest=2e4), "b", "The output of b leaves"),
    "its input and weight make it": (trace(output=FORWARD, peak=1, largest=60.0, weight=500.0), "b", "The output of b"),
    "scores": (trace(output=FORWARD, peak=0.1, logit=np.inf), "b", "What attention in b takes the softmax of leaves"),
    "the gradient": (
        trace(output_grad=BACKWARD, weight_grad=BACKWARD, peak=4e4),
        "head",
        "The gradient at head leaves the range",
    ),
    "the whole gradient": (
        trace(output_grad=[1000.0] * D, weight_grad=BACKWARD, peak=np.nan),
        "head",
        "The gradient at head",
    ),
}


@pytest.mark.parametrize(("found", "module", "said"), BROKEN.values(), ids=BROKEN)
def test_what_leaves_the_range_is_found_and_is_nothing_else(found, module, said):
    (finding,) = LowPrecisionOverflow().check(found)
    assert (finding.module, finding.first_step, finding.severity) == (module, BORN, Severity.ERROR)
    assert finding.message.startswith(said)
    assert list(NonFinite().check(found)) == []


BFLOAT = {"dtypes": dict.fromkeys(MODULES, "bfloat16")}
CLEAN = {
    "log of zero beside small numbers": trace(output=FORWARD, peak=9.0, logit=5.0),
    "a row that a mask excludes": trace(output=FORWARD, peak=1.0, logit=12.0, largest=300.0),
    "a root at zero in the backward pass": trace(output_grad=BACKWARD, weight_grad=BACKWARD, peak=0.3),
    "bfloat16": trace(output=FORWARD, peak=3e4, meta=BFLOAT),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_what_is_broken_by_something_else_is_left_to_the_other_rule(found):
    assert list(LowPrecisionOverflow().check(found)) == []
    assert len(list(NonFinite().check(found))) == 1


def test_finite_numbers_are_clean():
    assert list(LowPrecisionOverflow().check(trace(largest=6e4))) == []


def test_a_model_without_float16_is_not_at_risk_and_an_old_trace_does_not_tell():
    assert LowPrecisionOverflow().concerns(trace())
    assert not LowPrecisionOverflow().concerns(trace(meta=BFLOAT))
    assert not LowPrecisionOverflow().concerns(trace(meta={}))
    with pytest.raises(NotJudged, match="needs to know"):
        LowPrecisionOverflow().concerns(trace_of(output_underflow_fraction=[0.0, 0.1]))

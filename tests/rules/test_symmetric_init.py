import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.symmetric_init import SymmetricInit

NAN = np.nan


def trace(equal, *, std=0.1, steps=40, types="Linear", trainable=True, mean=0.3):
    """`symmetric_fraction` of a hidden layer and of a head, measured on every 16th record."""
    share = np.full((steps, 2), NAN)
    rows = np.arange(0, steps, 16)
    share[rows] = np.broadcast_to(np.asarray(equal, dtype=float), (len(rows), 2))
    more = {"weight_grad_rms": np.ones(2)} if trainable else {}
    return trace_of(
        modules=["hidden", "head"],
        types=types,
        output_rms=np.ones(2),
        weight_mean=np.full(2, mean),
        weight_std=np.broadcast_to(np.asarray(std, dtype=float), (steps, 2)),
        weight_symmetric_fraction=share,
        **more,
    )


moves_apart = np.array([[0, 1], [0, 0], [0, 0]])
CLEAN = {
    "random": trace([0, 0]),
    "a head that starts at zero": trace(moves_apart, std=np.r_[[[0.1, 0.0]], np.full((39, 2), 0.1)]),
    "a look-up table": trace([1, 1], types="Embedding"),
    "frozen": trace([1, 1], trainable=False),
}


@pytest.mark.parametrize("name", CLEAN)
def test_units_that_differ_or_come_to_differ_are_clean(name):
    try:
        found = list(SymmetricInit().check(CLEAN[name]))
    except NotJudged:
        found = []
    assert found == []


def test_units_that_stay_copies_are_found():
    (finding,) = SymmetricInit().check(trace([1, 0]))
    assert (finding.module, finding.severity) == ("hidden", Severity.ERROR)
    assert "100% of the units of hidden are copies of each other, from step 0 to step 32" in finding.message
    assert "layers in all" not in finding.message


def test_a_weight_that_stays_constant_needs_no_rows():
    (finding,) = SymmetricInit().check(trace([NAN, NAN], std=0.0, steps=5, mean=0.0))
    assert finding.cause.startswith("Every element of its weight started at 0")
    assert len(finding.sites) == 2


def test_where_no_layer_is_trained_there_is_nothing_to_judge():
    with pytest.raises(NotJudged, match="a trainable weight of a layer that ran; the trace has none"):
        list(SymmetricInit().check(CLEAN["frozen"]))


def test_two_steps_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="3 steps, the trace has 2"):
        list(SymmetricInit().check(trace([1, 1], steps=2)))

import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.hidden_overflow import hidden_overflow
from gradscope.rules.low_precision_overflow import LowPrecisionOverflow

MODULES = ["fc", "norm", "head"]
HALF = {"dtypes": dict.fromkeys(MODULES, "float16")}
TYPES = ("Linear", "OwnNorm", "Linear")


def trace(*, given=1000.0, zero=1.0, before=0.0, types=TYPES, meta=HALF, steps=8, since=0):
    """A norm that returns nothing from step `since` on, of numbers up to `given`."""
    sick = np.arange(steps)[:, None] >= since
    return trace_of(
        modules=MODULES,
        types=types,
        meta=meta,
        output_abs_max=np.where(sick, [given, 0.0, 1.0], [1.0, 1.0, 1.0]),
        output_zero_fraction=np.where(sick, [before, zero, 0.0], 0.0),
    )


def test_what_divides_by_an_infinite_norm_is_found():
    found = hidden_overflow(trace(since=3))
    assert (found.given, found.lasting.first) == (1000.0, 3)
    (finding,) = LowPrecisionOverflow().check(trace(since=3))
    assert (finding.module, finding.first_step, finding.measured) == ("norm", 3, 1e6)
    assert "of numbers up to 1000" in finding.message


CLEAN = {
    "squares within the range": trace(given=200.0),
    "a share of zeros": trace(zero=0.4),
    "zeros of zeros": trace(before=0.5),
    "a rectifier that is off": trace(types=("Linear", "ReLU", "Linear")),
    "bfloat16": trace(meta={"dtypes": dict.fromkeys(MODULES, "bfloat16")}),
    "one step of many": trace(steps=30, since=29),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_other_zeros_are_not_blamed(found):
    assert hidden_overflow(found) is None

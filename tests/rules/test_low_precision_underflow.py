import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.low_precision_underflow import LowPrecisionUnderflow
from gradscope.rules.sixteen_bits import SMALLEST

MODULES = ["a", "b", "c", "head"]
HALF = {"dtypes": dict.fromkeys(MODULES, "float16")}
BFLOAT = {"dtypes": {f"{module}.weight": "bfloat16" for module in MODULES}, "optimizers": [{"type": "SGD"}]}


def gradients(spacings, zeros=0.0, meta=HALF):
    """Gradients of that many spacings where they are not zero."""
    left = 1 - np.asarray(zeros)
    rms = np.asarray(spacings) * SMALLEST * np.sqrt(left)
    return trace_of(
        modules=MODULES,
        meta=meta,
        loss=1.0,
        output_grad_rms=rms,
        output_grad_zero_fraction=np.broadcast_to(np.where(np.asarray(spacings) == 0, 1.0, zeros), rms.shape),
        weight_grad_l2_norm=np.ones(4),
    )


def updates(still, zeros=0.0, sizes=1000.0):
    """Updates of which a share is exactly zero, of gradients of which another is."""
    some = np.broadcast_to(np.asarray(still, dtype=float), (4,))
    return trace_of(
        modules=MODULES,
        meta=BFLOAT,
        loss=1.0,
        weight_rms=np.full(4, 0.1),
        weight_numel=np.broadcast_to(sizes, (4,)),
        weight_grad_numel=np.broadcast_to(sizes, (4,)),
        weight_grad_l2_norm=np.ones(4),
        applied_grad_zero_fraction=np.full(4, zeros),
        weight_update_zero_fraction=some,
    )


BROKEN = {
    "all of it": (gradients([1.0, 1.1, 1.2, 1.5]), "head", Severity.WARNING, "The gradient of head has an rms of"),
    "upstream": (gradients([1.0, 1.5, 6, 30]), "b", Severity.WARNING, "The gradient of b has an rms of 8.9e-08"),
    "nothing left": (gradients([0, 0, 1.5, 30]), "c", Severity.ERROR, "The gradient of c has an rms"),
    "beside zeros that are meant": (
        gradients([1.0, 1.5, 6, 30], zeros=0.9),
        "b",
        Severity.WARNING,
        "The gradient of b",
    ),
    "updates": (updates(0.99), "a", Severity.ERROR, "99% of the elements of a.weight that have a gradient do not move"),
    "most updates": (updates(0.85), "a", Severity.WARNING, "85% of the elements of a.weight"),
    "one small weight": (updates([0, 0, 0, 0.9], sizes=[1e4, 1e4, 1e4, 1e3]), "head", Severity.INFO, "90% of"),
}


@pytest.mark.parametrize(("found", "module", "severity", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_lost_is_found_where_it_begins(found, module, severity, said):
    (finding,) = LowPrecisionUnderflow().check(found)
    assert (finding.module, finding.severity) == (module, severity)
    assert finding.message.startswith(said)


CLEAN = {
    "subnormal": gradients([10, 30, 100, 300]),
    "subnormal beside zeros": gradients([10, 30, 100, 300], zeros=0.95),
    "a branch that begins at zero": gradients([0, 3000, 3000, 3000]),
    "bfloat16 has no such range": gradients([0.1, 0.1, 0.1, 0.1], meta={"dtypes": dict.fromkeys(MODULES, "bfloat16")}),
    "updates of sparse gradients": updates(0.95, zeros=0.94),
    "updates of which the small ones are lost": updates(0.5),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_what_keeps_its_digits_is_clean(found):
    assert list(LowPrecisionUnderflow().check(found)) == []


def test_the_loss_scale_that_is_asked_for_leaves_room():
    (finding,) = LowPrecisionUnderflow().check(gradients([1.0, 1.5, 6, 30]))
    assert finding.remedy.startswith("Multiply the loss by 1024 ")


def test_a_model_without_sixteen_bits_is_not_at_risk():
    assert LowPrecisionUnderflow().concerns(gradients([1, 1, 1, 1]))
    assert LowPrecisionUnderflow().concerns(updates(0.1))
    assert not LowPrecisionUnderflow().concerns(gradients([1, 1, 1, 1], meta={}))


def test_too_little_is_not_judged():
    with pytest.raises(NotJudged, match="needs 3 steps"):
        list(LowPrecisionUnderflow().check(trace_of(steps=2, output_grad_rms=[1e-8], meta=HALF)))

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.update_too_small import UpdateTooSmall

NAN = np.nan


def trace(update, *, grad=(1, 1, 1), steps=20, **more):
    update = np.broadcast_to(np.asarray(update, dtype=float), (steps, 3))
    return trace_of(
        modules=["stem", "body", "head"],
        weight_l2_norm=np.ones(3),
        weight_grad_l2_norm=list(grad),
        weight_update_l2_norm=update,
        **more,
    )


warm_up = 1e-3 * np.linspace(0, 1, 20)[:, None] * np.ones(3)
converged = 1e-2 * 10.0 ** -np.arange(20)[:, None] * np.ones(3)
CLEAN = {
    "usual": trace([1e-3, 1e-3, 1e-3]),
    "SGD's small steps": trace([1e-5, 1e-5, 1e-4]),
    "warm-up from zero": trace(warm_up),
    "converged": trace(converged),
    "no gradient, no step": trace([0, 1e-3, 1e-3], grad=(0, 1, 1)),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_weights_that_moved_once_are_clean(found):
    assert list(UpdateTooSmall().check(found)) == []


@pytest.mark.parametrize(("ratio", "severity"), [(3e-7, Severity.WARNING), (1e-9, Severity.ERROR)])
def test_a_weight_that_never_moves_is_found(ratio, severity):
    (finding,) = UpdateTooSmall().check(trace([1e-3, ratio, 1e-3]))
    assert (finding.module, finding.severity) == ("body", severity)
    assert finding.measured == pytest.approx(ratio, rel=1e-4)


def test_where_nothing_moves_it_is_the_model():
    (finding,) = UpdateTooSmall().check(trace([1e-9, 1e-9, 1e-9]))
    assert finding.module == ""
    assert "3 weights of stem to head" in finding.message


def test_a_gradient_below_the_eps_of_adam_is_not_for_the_learning_rate_to_mend():
    adam = {"optimizers": [{"type": "Adam", "lr": 1e-3, "eps": 1e-8}]}
    (finding,) = UpdateTooSmall().check(trace([1e-3, 0, 1e-3], grad=(1, 1e-17, 1), meta=adam))
    assert finding.message == "1 weight of body never moved in 20 recorded steps."
    assert "norms of up to 1.0e-17, below its eps of 1e-08" in finding.cause
    assert finding.remedy.startswith("Find what shrinks the gradient on its way to body")


def test_a_weight_that_no_optimizer_holds_is_an_error():
    found = trace_of(
        modules=["stem", "body"],
        weight_l2_norm=np.ones(2),
        weight_grad_l2_norm=np.ones(2),
        weight_update_l2_norm=[1e-3],
        meta={"optimizers": [{"type": "Adam", "lr": 1e-3}]},
    )
    (finding,) = UpdateTooSmall().check(found)
    assert (finding.module, finding.severity) == ("body", Severity.ERROR)
    assert finding.cause == "They are trainable, but were not given to Adam."


def test_weights_without_a_gradient_leave_nothing_to_judge():
    with pytest.raises(NotJudged, match="needs weights with a gradient in 3 steps"):
        list(UpdateTooSmall().check(trace([0, 0, 0], grad=(NAN, NAN, NAN))))

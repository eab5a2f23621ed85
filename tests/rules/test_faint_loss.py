import numpy as np
import pytest
from builders import chain, links, trace_of

from gradscope.findings import Severity
from gradscope.rules.faint_loss import FAINT, faintness
from gradscope.rules.zero_loss_gradient import ZeroLossGradient

MODULES = ["a", "b", "c"]
STEPS = 20


def trace(gradient, *, ratio=1e-9, loss=1e-9, lr=0.05, name="SGD", eps=0.0, flow=True):
    """Norms of ∂L/∂y of three layers, 100 elements each, of ∂L/∂w as large, and steps of `ratio` of the weights."""
    gradient = np.broadcast_to(np.asarray(gradient, dtype=float), (3,))
    groups = [{"lr": lr, "eps": eps, "parameters": [f"{m}.weight" for m in MODULES]}]
    graph = {"flow": links(*chain("in", *MODULES, "out")).to_list()} if flow else {}
    return trace_of(
        steps=STEPS,
        modules=MODULES,
        numel=100,
        output_l2_norm=np.full(3, 10.0),
        output_grad_l2_norm=gradient,
        weight_l2_norm=np.ones(3),
        weight_grad_l2_norm=gradient,
        weight_grad_rms=gradient / 10,
        weight_update_l2_norm=np.full(3, ratio),
        loss=loss,
        lr=lr,
        meta={"optimizers": [{"type": name, "lr": lr, "eps": eps, "groups": groups}], **graph},
    )


BROKEN = {
    "far out on a softplus": trace(1e-10),
    "the loss has a factor of 1e-6": trace(1e-7),
    "below the eps of Adam": trace(1e-11, lr=3e-3, name="Adam", eps=1e-8, ratio=1e-7),
}
CLEAN = {
    "the rate is tiny": trace(0.1, lr=1e-8, loss=0.7),
    "so is the rate of Adam": trace(1e-6, lr=1e-8, name="Adam", eps=1e-12),
    "lost on the way back": trace([1e-11, 1e-6, 0.1], loss=0.7),
    "the weights move all the same": trace(1e-7, ratio=1e-2),
    "eps is far too large": trace(0.05, lr=3e-3, name="Adam", eps=1.0, loss=0.7),
    "the graph is not known": trace(1e-10, flow=False),
}


@pytest.mark.parametrize("found", BROKEN.values(), ids=BROKEN)
def test_a_gradient_that_is_tiny_at_the_output_already_is_found(found):
    (finding,) = ZeroLossGradient().check(found)
    assert (finding.module, finding.severity) == ("c", Severity.ERROR)
    assert 0 < finding.measured <= finding.threshold == FAINT


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_what_stands_still_for_another_reason_is_clean(found):
    assert faintness(found) is None


def test_the_slope_is_that_of_an_element_of_a_mean():
    assert faintness(trace(1e-7)) == pytest.approx(1e-6)
    (finding,) = ZeroLossGradient().check(trace(1e-7))
    assert "multiply the loss by 1e+06" in finding.remedy


def test_without_a_weight_that_moves_nothing_is_said():
    assert faintness(trace_of(output_l2_norm=np.ones(3), output_grad_l2_norm=np.full(3, 1e-12))) is None

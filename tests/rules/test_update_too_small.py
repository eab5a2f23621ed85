from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.records import Quantity
from gradscope.rules.update_too_small import UpdateTooSmall

NAN = np.nan
MODULES = ["stem", "body", "head"]


def trace(update, *, grad=(1, 1, 1), steps=20, **more):
    update = np.broadcast_to(np.asarray(update, dtype=float), (steps, 3))
    return trace_of(
        modules=MODULES,
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


def optimizer(*rates, name="SGD", **settings):
    """Groups of stem and head, and of body where a second rate is given."""
    members = (
        [["stem.weight", "head.weight"], ["body.weight"]] if len(rates) > 1 else [[f"{m}.weight" for m in MODULES]]
    )
    groups = [{"lr": r, "parameters": names, **settings} for r, names in zip(rates, members, strict=True)]
    return {"optimizers": [{"type": name, "lr": rates[0], "groups": groups, **settings}]}


@pytest.mark.parametrize(("ratio", "severity"), [(3e-7, Severity.INFO), (1e-9, Severity.ERROR)])
def test_a_layer_whose_gradient_is_small_is_grave_where_its_updates_are_rounded_away(ratio, severity):
    (finding,) = UpdateTooSmall().check(trace([1e-3, ratio, 1e-3], meta=optimizer(0.1)))
    assert (finding.module, finding.severity) == ("body", severity)
    assert finding.measured == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize(("ratio", "severity"), [(3e-7, Severity.WARNING), (1e-9, Severity.ERROR)])
def test_a_group_with_a_tiny_learning_rate_is_found(ratio, severity):
    (finding,) = UpdateTooSmall().check(trace([1e-3, ratio, 1e-3], meta=optimizer(0.1, 1e-6)))
    assert (finding.module, finding.severity) == ("body", severity)
    assert "a learning rate of 1e-06 for them" in finding.cause
    assert f"from 1e-06 to about {1e-6 * 1e-3 / ratio:.0e}" in finding.remedy


def test_a_group_that_learns_a_hundredth_as_fast_is_clean():
    assert list(UpdateTooSmall().check(trace([1e-3, 1e-5, 1e-3], meta=optimizer(0.1, 1e-3)))) == []


def test_a_layer_that_wakes_is_no_more_than_worth_knowing():
    waking = np.geomspace(1e-9, 5e-8, 20)[:, None] * [0, 1, 0] + [1e-3, 0, 1e-3]
    (finding,) = UpdateTooSmall().check(trace(waking, meta=optimizer(0.1)))
    assert finding.severity is Severity.INFO


def test_where_nothing_moves_it_is_the_model():
    (finding,) = UpdateTooSmall().check(trace([1e-9, 1e-9, 1e-9], lr=1e-8, meta=optimizer(1e-8)))
    assert (finding.module, finding.severity) == ("", Severity.ERROR)
    assert "3 weights of stem to head" in finding.message
    assert "from 1e-08 to about 1e-02" in finding.remedy


@pytest.mark.parametrize(("loss", "found"), [(1.0, 1), (1e-6, 0)])
def test_small_steps_that_would_pay_are_clean(loss, found):
    """Three weights that move by 2e-5 along gradients of norm 1: nothing beside a loss of 1, 60 times one of 1e-6."""
    assert len(list(UpdateTooSmall().check(trace([2e-5, 2e-5, 2e-5], loss=loss, meta=optimizer(2e-5))))) == found


def test_a_model_that_no_attached_optimizer_moves_is_not_judged_by_that():
    assert list(UpdateTooSmall().check(trace([0, 0, 0]))) == []


def test_weight_decay_alone_is_no_learning():
    """AdamW at 0.1 · 0.01 moves every weight by 1e-3 of itself, straight to zero."""
    decays = optimizer(0.1, name="AdamW", weight_decay=0.01, eps=1e-8)
    (finding,) = UpdateTooSmall().check(trace([1e-3] * 3, grad=[1e-20] * 3, loss=1e-20, meta=decays))
    assert (finding.module, finding.measured) == ("", 0.0)


def test_a_schedule_that_takes_the_rate_away_is_found_from_there_on():
    rate = 0.1 * 0.1 ** np.arange(20)
    found = trace(rate[:, None] * np.full(3, 0.1), loss=1.0, meta=optimizer(0.1))
    found = replace(found, per_step={**found.per_step, "lr": rate})
    (finding,) = UpdateTooSmall().check(found)
    assert (finding.module, finding.first_step) == ("", 4)  # 3 · 0.01 · 0.1^4 < 1e-4 of the loss
    assert "fell from 1.0e-01 to 1.0e-05 by step 4" in finding.cause


def test_a_gradient_below_the_eps_of_adam_is_not_for_the_learning_rate_to_mend():
    adam = optimizer(1e-3, name="Adam", eps=1e-8)
    (finding,) = UpdateTooSmall().check(trace([1e-3, 0, 1e-3], grad=(1, 1e-17, 1), meta=adam))
    assert finding.message == "1 weight of body never moved in 20 recorded steps."
    assert "an rms of at most 3.2e-19, below its eps of 1e-08" in finding.cause
    assert finding.remedy.startswith("Find what shrinks the gradient on its way to body")


@pytest.mark.parametrize(
    ("name", "held", "severity"),
    [("weight", [], Severity.ERROR), ("bias", [], Severity.ERROR), ("bias", ["weight"], Severity.INFO)],
)
def test_a_bias_left_out_beside_its_weight_is_merely_worth_knowing(name, held, severity):
    (finding,) = UpdateTooSmall().check(left_out(name, held))
    assert (finding.module, finding.severity) == ("fc", severity)


def left_out(name, held):
    """A module "fc" of which `held` is moved and `name` is not."""
    columns = [(name, "weight_grad"), *((h, q) for h in held for q in ("weight_grad", "weight", "weight_update"))]
    found = trace_of(
        modules=["fc"] * len(columns), weight_grad_l2_norm=np.full(len(columns), 1e-1), meta=optimizer(0.1)
    )
    sites = [
        replace(site, quantity=Quantity(quantity), name=called)
        for site, (called, quantity) in zip(found.sites, columns, strict=True)
    ]
    return replace(found, sites=tuple(sites))


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


def test_a_weight_that_another_optimizer_moves_is_not_left_out():
    drifts = np.linspace(1, 2, 10)[:, None] + np.zeros((10, 2))
    found = trace_of(
        modules=["stem", "body"],
        weight_l2_norm=np.ones((10, 2)),
        weight_mean=drifts,
        weight_rms=drifts,
        weight_max=drifts,
        weight_grad_l2_norm=np.ones(2),
        weight_update_l2_norm=[1e-3],
        meta={"optimizers": [{"type": "Adam", "lr": 1e-3}]},
    )
    assert list(UpdateTooSmall().check(found)) == []

from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.no_gradient import NoGradient

NAN = np.nan
MODULES = ["front.0", "front.2", "back.1"]


def trace(grad, *, update=(0.1, 0.1, 0.1), steps=10, **more):
    grad = np.broadcast_to(np.asarray(grad, dtype=float), (steps, 3))
    return trace_of(
        modules=MODULES, weight_l2_norm=np.ones(3), weight_grad_l2_norm=grad, weight_update_l2_norm=list(update), **more
    )


first_step_zero = np.r_[[[0, 1, 1]], np.ones((9, 3))]
every_other = np.where(np.arange(10)[:, None] % 2, [1, 1, 1], [1, NAN, 1])
CLEAN = {
    "all learn": trace([1, 1, 1]),
    "an adapter's first step": trace(first_step_zero),
    "a head of its own task, every other step": trace(every_other),
    "tiny is not zero": trace([1e-30, 1, 1]),
    "a rank has nothing of a shard": trace([NAN, 1, 1], weight_numel=[0, 1000, 1000]),
    "NaN has arrived": trace([NAN, 1, 1], weight_grad_nonfinite_count=[5, 0, 0]),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_what_gets_a_gradient_now_and_then_is_clean(found):
    assert list(NoGradient().check(found)) == []


@pytest.mark.parametrize(("value", "said"), [(NAN, "never got a gradient"), (0.0, "a gradient of exactly zero")])
def test_a_region_that_is_cut_off_is_one_finding(value, said):
    (finding,) = NoGradient().check(trace([value, value, 1]))
    assert finding.module == "front"
    assert finding.severity is Severity.ERROR
    assert said in finding.message
    assert "67% of all trainable" in finding.message


def test_of_two_factors_that_are_zero_it_is_said_that_these_are_the_cause():
    found = replace(trace([0, 0, 1]), statistics=dict(trace([0, 0, 1]).statistics))
    found.statistics["l2_norm"][:, [i for i, s in enumerate(found.sites[:3]) if s.module != "back.1"]] = 0.0
    (finding,) = NoGradient().check(found)
    assert "Its own weights are zero" in finding.cause
    assert finding.remedy.startswith("Draw the weight of front.0 at random")


def test_an_output_that_nobody_uses_costs_only_itself():
    (finding,) = NoGradient().check(trace([1, NAN, 1]))
    assert (finding.module, finding.severity) == ("front.2", Severity.WARNING)


def cut(*modules, line=31):
    return {"function": "detach", "file": "acme/models.py", "line": line, "modules": list(modules)}


def test_a_branch_that_is_cut_is_an_error_and_the_line_is_named():
    cuts = [cut("front.0", "front.2", line=7), cut("front.2"), cut("back.1", line=9)]
    (finding,) = NoGradient().check(trace([1, NAN, 1], meta={"cuts": cuts}))
    assert (finding.module, finding.severity) == ("front.2", Severity.ERROR)
    assert "`detach` at acme/models.py:31" in finding.cause


def test_a_cut_that_other_paths_go_around_or_that_is_elsewhere_explains_nothing():
    assert list(NoGradient().check(trace([1, 1, 1], meta={"cuts": [cut("front.2")]}))) == []
    (finding,) = NoGradient().check(trace([1, NAN, 1], meta={"cuts": [cut("back.1")]}))
    assert (finding.severity, "detach" in finding.cause) == (Severity.WARNING, False)
    (finding,) = NoGradient().check(trace([1, 0.0, 1], meta={"cuts": [cut("front.2")]}))
    assert "detach" not in finding.cause  # a gradient of zero came, so the path is there


def test_what_never_ran_may_belong_to_another_task():
    idle = trace([1, NAN, 1])
    sites = tuple(replace(site, depth=-1) if site.module == "front.2" else site for site in idle.sites)
    (finding,) = NoGradient().check(replace(idle, sites=sites))
    assert (finding.module, finding.severity) == ("front.2", Severity.WARNING)


def test_what_no_optimizer_holds_was_not_meant_to_learn():
    updates = trace_of(
        modules=MODULES,
        weight_l2_norm=np.ones(3),
        weight_grad_l2_norm=[NAN, 1, 1],
        meta={"optimizers": [{"type": "SGD"}]},
    )
    (finding,) = NoGradient().check(updates)
    assert finding.severity is Severity.INFO


def test_two_steps_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="needs 3 steps"):
        list(NoGradient().check(trace([0, 1, 1], steps=2)))


def test_an_expert_that_no_sample_is_routed_to_is_only_worth_knowing():
    found = trace([0, 1, 1], output_rms=[NAN, 1, 1], output_numel=np.array([0.0, 32.0, 32.0]))
    (finding,) = NoGradient().check(found)
    assert (finding.module, finding.severity) == ("front.0", Severity.INFO)
    assert finding.cause == "It ran, but never on a sample."


def stopping(at, *, steps=40, pauses=(), meta=None, runs=True):
    """front.0 gets its last gradient before step `at`; `pauses` are steps before in which it gets none."""
    grad = np.ones((steps, 3))
    grad[[*range(at, steps), *pauses], 0] = NAN
    output = np.ones((steps, 3))
    output[at:, 0] = 1.0 if runs else NAN
    return trace(grad, steps=steps, output_rms=output, meta=meta)


def test_a_gradient_that_stops_where_a_line_cuts_it_is_an_error_since_then():
    (finding,) = NoGradient().check(stopping(15, meta={"cuts": [cut("front.0", line=7)]}))
    assert (finding.module, finding.severity, finding.first_step) == ("front.0", Severity.ERROR, 15)
    assert "until step 14 and none in the 25 recorded steps from 15 on" in finding.message
    assert finding.cause == "It still runs, but `detach` at acme/models.py:7 takes what it computes out of the graph."


@pytest.mark.parametrize(("runs", "why"), [(True, "no longer depends on it"), (False, "no longer runs")])
def test_a_gradient_that_stops_for_another_reason_is_worth_knowing(runs, why):
    meta = None if runs else {"cuts": [cut("front.0")]}  # a logged figure: it does not run any more
    (finding,) = NoGradient().check(stopping(15, runs=runs, meta=meta))
    assert finding.severity is Severity.INFO
    assert why in finding.cause


def test_a_gradient_that_becomes_zero_is_an_error_where_everything_passes():
    grad = np.ones((40, 3))
    grad[15:, 0] = 0
    (finding,) = NoGradient().check(trace(grad, steps=40))
    assert (finding.module, finding.severity, finding.first_step) == ("front.0", Severity.ERROR, 15)
    assert "one of exactly zero in the 25 recorded steps" in finding.message
    (finding,) = NoGradient().check(trace(grad[:, [1, 0, 2]], steps=40))  # beside the others' way
    assert (finding.module, finding.severity) == ("front.2", Severity.INFO)


def test_a_loss_that_is_through_with_its_work_stops_no_gradient():
    grad = np.ones((40, 3))
    grad[15:] = 0
    assert list(NoGradient().check(trace(grad, steps=40))) == []


STILL_COMING = {
    "frozen by then": stopping(15, meta={"frozen": ["front.0.weight"], "cuts": [cut("front.0")]}),
    "less than ten steps": stopping(31),
    "less than 15 %": stopping(172, steps=200),
    "has paused for as long before": stopping(28, pauses=range(3, 10)),
}


@pytest.mark.parametrize("found", STILL_COMING.values(), ids=STILL_COMING)
def test_a_pause_is_no_end(found):
    assert list(NoGradient().check(found)) == []

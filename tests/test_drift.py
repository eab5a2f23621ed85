"""One finding for all layers whose gain is no longer the baseline's. How the gate takes it in is in test_gate.py."""

import pytest
from builders import trace_of

from gradscope.baseline import Baseline
from gradscope.drift import drift
from gradscope.findings import Unjudged

TRACE = trace_of(modules=["a", "b"], input_grad_l2_norm=[1.0, 10.0], output_grad_l2_norm=[1.0, 1.0])


def profile(**gains):
    return Baseline(profiles={"net": gains})


def test_all_layers_that_drift_make_one_finding_named_after_the_worst():
    found = drift("net", [TRACE], {"a": 1.0, "b": -2.0, "c": 0.1}, profile(a=0.0, b=0.0, c=0.0), 0.5)
    assert (found.module, found.alike) == ("b", ("a", "b"))
    assert "less" in found.message
    assert "likewise a" in found.message


def test_drift_of_a_recurrence_is_told_of_its_module():
    rnn = trace_of(modules=["rnn", "fc"], output_grad_l2_norm=[1.0, 1.0])
    moved = {"rnn l0 per time step": -1.0, "rnn l1 per time step": -0.7, "fc": 0.0}
    found = drift("net", [rnn], moved, profile(**dict.fromkeys(moved, 0.0)), 0.5)
    assert (found.module, found.alike) == ("rnn", ("rnn",))
    assert [site.module for site in found.sites] == ["rnn"]
    assert "multiplied by 0.1 on its way back through rnn l0 in each time step, by 1 in the baseline" in found.message
    assert "likewise rnn l1 in each time step" in found.message


def test_of_many_that_drift_four_are_named_beside_the_worst():
    moved = {f"m{i}": 1.0 + i / 10 for i in range(7)}
    found = drift("net", [TRACE], moved, profile(**dict.fromkeys(moved, 0.0)), 0.5)
    assert found.message.endswith("0.5 are allowed; likewise m0, m1, m2, m3 and 2 more.")
    five = {name: moved[name] for name in ("m2", "m3", "m4", "m5", "m6")}
    found = drift("net", [TRACE], five, profile(**dict.fromkeys(moved, 0.0)), 0.5)
    assert found.message.endswith("; likewise m2, m3, m4, m5.")
    assert found.cause == "5 modules of 7 in the profile moved by more than that."


@pytest.mark.parametrize(("by", "drifts"), [(0.5, False), (0.51, True), (-0.51, True), (-0.5, False), (0.0, False)])
def test_the_bound_itself_is_allowed_in_both_directions(by, drifts):
    assert (drift("net", [TRACE], {"a": by}, profile(a=0.0), 0.5) is not None) is drifts


def test_modules_that_came_or_went_are_not_compared():
    assert drift("net", [TRACE], {"a": 0.0, "new": 9.0}, profile(a=0.0, gone=9.0), 0.5) is None
    assert isinstance(drift("net", [TRACE], {"new": 9.0}, profile(gone=9.0), 0.5), Unjudged)


def test_a_gain_beyond_all_numbers_is_told_as_a_power():
    found = drift("net", [TRACE], {"a": 0.0}, profile(a=400.0), 0.5)
    assert "by 10^400 in the baseline" in found.message

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from builders import links, trace_of

from gradscope.findings import Finding, Role, Severity
from gradscope.links import INPUT, OUTPUT, End, Link, Links, Side
from gradscope.records import Quantity, Site
from gradscope.rules import RULES
from gradscope.rules.relations import EXPLAINED_BY, ORDER, OUTCOMES, relate

TRACE = trace_of(output_rms=[1.0])


def finding(code, *, depths=(1, 9), first=0, severity=Severity.ERROR, module=None):
    sites = tuple(
        Site(module=str(d), module_type="Linear", quantity=Quantity.OUTPUT_GRAD, depth=d) for d in range(*depths)
    )
    return Finding(
        code=code,
        pathology=code,
        severity=severity,
        module=module or str(depths[0]),
        sites=sites,
        first_step=first,
        last_step=99,
        measured=0.0,
        threshold=1.0,
        unit="",
        message="",
        cause="",
        remedy="",
    )


def roles(*findings, trace=TRACE):
    return {f.code: (f.role, f.caused_by and f.caused_by[1]) for f in relate(findings, trace)}


ROOT = (Role.ROOT, None)


@pytest.mark.parametrize(
    ("root", "symptoms"),
    [
        ("GS304", ("GS101", "GS501", "GS301")),
        ("GS305", ("GS102", "GS502", "GS401", "GS302")),
        ("GS504", ("GS103", "GS301", "GS101")),
        ("GS502", ("GS301", "GS302", "GS401")),
        ("GS301", ("GS103",)),
        ("GS101", ("GS501",)),
        ("GS201", ("GS101", "GS304", "GS501", "GS303", "GS307")),
        ("GS202", ("GS102", "GS305", "GS502", "GS401", "GS503", "GS301")),
    ],
)
def test_typical_stories_have_one_root(root, symptoms):
    found = roles(finding(root), *(finding(code) for code in symptoms))
    assert found[root] == ROOT
    assert {found[code] for code in symptoms} == {(Role.SYMPTOM, root)}


def test_a_symptom_of_a_symptom_names_the_root():
    found = roles(finding("GS305"), finding("GS102"), finding("GS502", first=1), finding("GS301", first=2))
    assert [code for code, (role, _) in found.items() if role is Role.ROOT] == ["GS305"]
    assert found["GS301"] == (Role.SYMPTOM, "GS305")


def test_of_equal_rows_and_equal_samples_what_comes_first_in_the_forward_pass_is_the_cause():
    rows, samples = finding("GS307", depths=(4, 5)), finding("GS303", depths=(7, 8))
    assert roles(rows, samples) == {"GS307": ROOT, "GS303": (Role.SYMPTOM, "GS307")}
    rows = finding("GS307", depths=(7, 8))
    assert roles(rows, samples) == {"GS303": ROOT, "GS307": (Role.SYMPTOM, "GS303")}


def test_what_a_stuck_softmax_does_not_choose_follows_from_it_wherever_it_stands():
    site = Site(module="softmax#0", module_type="Softmax", quantity=Quantity.OUTPUT, depth=2)
    chosen, idle = replace(finding("GS302"), sites=(site,)), finding("GS501", depths=(5, 9))
    assert roles(chosen, idle, finding("GS502")) == {
        "GS302": ROOT,
        "GS502": ROOT,
        "GS501": (Role.SYMPTOM, "GS302"),
    }
    assert roles(finding("GS302", depths=(2, 3)), idle)["GS501"] == ROOT


def test_a_gate_that_is_shut_explains_what_it_keeps_from_learning_and_that_it_returns_the_same_for_every_sample():
    gate = Site(module="2", module_type="Sigmoid", quantity=Quantity.OUTPUT, depth=2)
    starved = Site(module="4", module_type="Tanh", quantity=Quantity.OUTPUT_GRAD, depth=4)
    shut = replace(finding("GS302"), sites=(gate, starved))
    same, idle = finding("GS303", depths=(2, 3)), finding("GS501", depths=(3, 4))
    assert roles(shut, same, idle) == {
        "GS302": ROOT,
        "GS303": (Role.SYMPTOM, "GS302"),
        "GS501": (Role.SYMPTOM, "GS302"),
    }
    assert roles(shut, finding("GS502"))["GS302"] == ROOT


def test_a_cause_cannot_begin_after_its_effect():
    assert roles(finding("GS301", first=0), finding("GS502", first=5))["GS301"] == ROOT


def test_an_explosion_that_follows_a_large_step_is_its_symptom_and_not_the_other_way_round():
    found = roles(finding("GS502", first=0), finding("GS305", first=1), finding("GS102", first=1))
    assert found == {"GS502": ROOT, "GS305": (Role.SYMPTOM, "GS502"), "GS102": (Role.SYMPTOM, "GS502")}


def test_a_gradient_is_lost_upstream_of_its_cause_only():
    dead = finding("GS301", depths=(4, 5))
    assert roles(dead, finding("GS103", depths=(1, 3)))["GS103"] == (Role.SYMPTOM, "GS301")
    assert roles(dead, finding("GS103", depths=(6, 9)))["GS103"] == ROOT


def test_a_fading_through_time_explains_a_slope_over_depth_only_across_the_recurrence():
    recurrence = finding("GS201", depths=(6, 7))
    assert roles(recurrence, finding("GS101", depths=(4, 9)))["GS101"] == (Role.SYMPTOM, "GS201")
    assert roles(recurrence, finding("GS101", depths=(1, 6)))["GS101"] == ROOT
    assert roles(recurrence, finding("GS103", depths=(1, 3)))["GS103"] == ROOT


def test_a_step_that_was_too_large_explains_what_fades_after_it():
    found = roles(finding("GS502", first=2), finding("GS201", first=3), finding("GS202", first=3))
    assert found["GS201"] == found["GS202"] == (Role.SYMPTOM, "GS502")


def test_roots_come_first_and_the_worst_of_them_first():
    ordered = relate(
        [finding("GS501"), finding("GS503", severity=Severity.INFO), finding("GS101"), finding("GS302")], TRACE
    )
    assert [f.role for f in ordered] == sorted(f.role for f in ordered)
    assert ordered[0].severity is Severity.ERROR


def branches(*chains):
    """A trace whose forward pass is the given chains of modules, each from the input to the output."""
    made = Links()
    for chain in chains:
        ends = [INPUT, *chain, OUTPUT]
        for source, target in pairwise(ends):
            made.add(Link(End(source, Side.RETURNED), End(target, Side.GIVEN)), 0, 0)
    return trace_of(output_rms=[1.0], meta={"flow": made.to_list()})


def test_a_forgotten_clear_was_forgotten_from_the_start():
    assert roles(finding("GS505", first=1), finding("GS502"))["GS502"] == (Role.SYMPTOM, "GS505")
    assert roles(finding("GS505", first=5), finding("GS502"))["GS502"] == ROOT


def test_attention_that_rests_on_one_key_explains_a_gradient_that_grows_there():
    assert roles(finding("GS306", depths=(4, 5)), finding("GS102"))["GS102"] == (Role.SYMPTOM, "GS306")


def test_what_costs_nothing_explains_nothing_that_does():
    survived = finding("GS502", severity=Severity.INFO)
    assert roles(survived, finding("GS301", first=1))["GS301"] == ROOT
    assert roles(survived, finding("GS301", first=1, severity=Severity.INFO))["GS301"] == (Role.SYMPTOM, "GS502")


@pytest.mark.parametrize("same", ["GS303", "GS307"])
def test_dead_units_and_constant_outputs_follow_from_what_lies_ahead(same):
    assert roles(finding("GS301", depths=(3, 4)), finding(same, depths=(4, 6)))[same] == (Role.SYMPTOM, "GS301")
    assert roles(finding(same, depths=(2, 3)), finding("GS301", depths=(3, 4)))["GS301"] == (Role.SYMPTOM, same)


def test_a_gradient_is_not_lost_on_another_branch():
    dead, starved = finding("GS301", depths=(5, 6)), finding("GS103", depths=(2, 4))
    one_chain, two_branches = branches("2345"), branches("1236", "1456")
    assert roles(dead, starved, trace=one_chain)["GS103"] == (Role.SYMPTOM, "GS301")
    beside = finding("GS103", depths=(2, 3))
    assert roles(dead, beside, trace=two_branches)["GS103"] == ROOT
    assert roles(finding("GS304", depths=(2, 3)), finding("GS101", depths=(4, 5)), trace=two_branches)["GS101"] == ROOT


def test_the_symptoms_are_told_in_the_order_in_which_one_leads_to_the_other():
    story = [finding("GS602"), finding("GS101"), finding("GS302"), finding("GS305"), finding("GS501")]
    assert [f.code for f in relate(story, TRACE)] == ["GS305", "GS302", "GS101", "GS501", "GS602"]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_outcome_follows_from_the_gravest_finding_whenever_that_began(outcome):
    mild, grave = finding("GS503", severity=Severity.WARNING), finding("GS103", first=7)
    assert roles(finding(outcome), mild, grave)[outcome] == (Role.SYMPTOM, "GS103")
    assert roles(finding(outcome), finding("GS503", severity=Severity.INFO))[outcome] == ROOT
    assert roles(*(finding(code) for code in OUTCOMES)) == dict.fromkeys(OUTCOMES, ROOT)


def test_every_code_has_its_place_in_the_order_and_every_cause_is_one():
    assert len(set(ORDER)) == len(ORDER)
    every = {rule.code for rule in RULES}
    assert set(ORDER) == every
    assert {code for causes in EXPLAINED_BY.values() for code, _ in causes} <= every
    assert EXPLAINED_BY.keys() <= every - set(OUTCOMES)


@pytest.mark.parametrize("end", ["GS303", "GS307"])
def test_what_dies_out_layer_by_layer_explains_the_output_that_is_constant_at_its_end(end):
    slope = finding("GS304", depths=(1, 20))
    assert roles(slope, finding(end, depths=(18, 19))) == {"GS304": ROOT, end: (Role.SYMPTOM, "GS304")}
    assert roles(slope, finding(end, depths=(2, 3))) == {end: ROOT, "GS304": (Role.SYMPTOM, end)}


def test_a_circle_of_explanations_has_a_root():
    circle = finding("GS304", depths=(1, 20)), finding("GS303", depths=(18, 19)), finding("GS307", depths=(2, 3))
    found = relate(circle, TRACE)
    assert [f.role for f in found] == [Role.ROOT, Role.SYMPTOM, Role.SYMPTOM]
    assert {f.caused_by for f in found[1:]} == {(found[0].module, found[0].code)}


def adapted(*, held=True, around=True):
    """Two factors, a and b, that start at zero, beside a layer of their own or behind it."""
    edges = [("in", "a"), ("a", "b"), ("b", "out"), *([("in", "base"), ("base", "out")] if around else [])]
    return trace_of(
        modules=["a", "b"],
        weight_l2_norm=np.zeros(2),
        weight_grad_l2_norm=np.zeros(2),
        **({"weight_update_l2_norm": np.zeros(2)} if held else {}),
        meta={"flow": links(*edges).to_list(), "optimizers": [{"type": "SGD"}]},
    )


def about(code, quantity, *modules):
    sites = [Site(module=m, module_type="Linear", quantity=quantity, name="weight", depth=2) for m in modules]
    return replace(finding(code), sites=tuple(sites), module=modules[0])


@pytest.mark.parametrize(
    ("around", "root", "symptom"), [(True, "GS103", "GS504"), (False, "GS504", "GS103")], ids=["adapter", "whole net"]
)
def test_two_factors_of_zero_beside_a_path_pass_nothing_on_and_stay_alike_for_it(around, root, symptom):
    alike, nothing = about("GS504", Quantity.WEIGHT, "a", "b"), about("GS103", Quantity.WEIGHT_GRAD, "a", "b")
    for both in ((alike, nothing), (nothing, alike)):
        found = roles(*both, trace=adapted(around=around))
        assert found == {root: ROOT, symptom: (Role.SYMPTOM, root)}


def test_one_weight_of_zeros_that_gets_nothing_is_alike_first():
    """A router over experts that are copies: which it chooses makes no difference."""
    alike, nothing = about("GS504", Quantity.WEIGHT, "a"), about("GS103", Quantity.WEIGHT_GRAD, "a")
    assert roles(alike, nothing, trace=adapted(around=True)) == {"GS504": ROOT, "GS103": (Role.SYMPTOM, "GS504")}


def test_zeros_that_no_optimizer_holds_stay_alike_for_it():
    alike, out = about("GS504", Quantity.WEIGHT, "a", "b"), about("GS501", Quantity.WEIGHT_GRAD, "b")
    same = about("GS303", Quantity.OUTPUT, "b")
    for all_of_them in ((alike, out, same), (same, out, alike)):
        found = roles(*all_of_them, trace=adapted(held=False))
        assert found == {"GS501": ROOT, "GS504": (Role.SYMPTOM, "GS501"), "GS303": (Role.SYMPTOM, "GS501")}
    slow = about("GS501", Quantity.WEIGHT_UPDATE, "b")
    assert roles(alike, slow, trace=adapted())["GS501"] == (Role.SYMPTOM, "GS504")

"""The findings of two runs are paired by rule and module, and what is left over by rule."""

import pytest
from builders import trace_of
from examples import finding

from gradscope.alignment import align
from gradscope.findings import Role
from gradscope.moves import matched

PLAIN = trace_of(steps=1, modules=["a", "b", "c"], output_rms=[1.0] * 3)
WRAPPED = trace_of(steps=1, modules=["net.a", "net.b", "net.c"], output_rms=[1.0] * 3)
SAME, PREFIXED = align(PLAIN, PLAIN), align(PLAIN, WRAPPED)


def at(module, code="GS301", **changes):
    return finding(code=code, module=module, **changes)


def test_the_same_rule_at_the_same_module_is_the_same_finding():
    a, b = [at("a"), at("b")], [at("b"), at("a")]
    found = matched(a, b, SAME, slack=0)
    assert [(m.a.module, m.b.module, m.elsewhere) for m in found] == [("a", "a", False), ("b", "b", False)]


def test_names_are_compared_across_the_prefix():
    (match,) = matched([at("b")], [at("net.b")], PREFIXED, slack=0)
    assert not match.elsewhere
    (whole,) = matched([at("")], [at("")], PREFIXED, slack=0)
    assert not whole.elsewhere


def test_findings_that_share_a_module_are_one_though_another_leads():
    (match,) = matched([at("a", alike=("a", "b"))], [at("b", alike=("b", "c"))], SAME, slack=0)
    assert not match.elsewhere


def test_the_same_rule_elsewhere_has_moved():
    (match,) = matched([at("a")], [at("c")], SAME, slack=0)
    assert match.elsewhere
    assert match.to_dict()["elsewhere"] is True


def test_what_is_at_its_module_is_not_taken_by_what_has_moved():
    found = matched([at("a"), at("b")], [at("b")], SAME, slack=0)
    assert [(m.a.module, m.b.module) for m in found] == [("b", "b")]


def test_a_root_is_paired_with_a_root():
    symptom, root = at("b", role=Role.SYMPTOM, caused_by=("c", "GS101")), at("c")
    (match,) = matched([at("a")], [symptom, root], SAME, slack=0)
    assert match.b is root


def test_other_rules_are_other_findings():
    assert matched([at("a", "GS301")], [at("a", "GS302")], SAME, slack=0) == ()
    assert matched([], [at("a")], SAME, slack=0) == ()


@pytest.mark.parametrize(("first", "moved"), [(5, False), (15, False), (16, True), (0, False)])
def test_an_onset_within_the_slack_is_the_same(first, moved):
    (match,) = matched([at("a", first_step=5)], [at("a", first_step=first)], SAME, slack=10)
    assert match.at_another_time == moved
    assert match.to_dict()["at_another_time"] == moved

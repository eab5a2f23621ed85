"""What counts, what is known, what is suppressed, and what has gone."""

from dataclasses import dataclass, replace

import pytest
from builders import trace_of
from examples import finding

from gradscope.baseline import Baseline
from gradscope.config import Suppression
from gradscope.errors import NotJudged, TraceError
from gradscope.findings import Diagnosis, Role, Severity, Unjudged
from gradscope.gate import Policy, judge, merged, sorted_out
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.verdict import Identity

TRACE = trace_of(modules=["a", "b"], input_grad_l2_norm=[1.0, 10.0], output_grad_l2_norm=[1.0, 1.0])


@dataclass(frozen=True)
class Says(Rule):
    """Says what it is told to."""

    code = "GS301"
    name = "dead-units"
    reads = frozenset({Quantity.OUTPUT_GRAD})
    findings: tuple = ()
    lacks: str = ""

    def check(self, trace):
        if self.lacks:
            raise NotJudged(self.lacks)
        yield from self.findings


def judged(*findings, suppress=(), known=(), rules=None, **options):
    baseline = Baseline(findings=frozenset(Identity("net", *words) for words in known)) if known else None
    rules = (Says(findings),) if rules is None else rules
    return judge("net", [TRACE], Policy(rules=rules, suppress=suppress, baseline=baseline, **options))


def accept(rule, module, **others):
    return Suppression(rule=rule, module=module, reason="on purpose", **others)


def modules(findings):
    return [one.module for one in findings]


def test_without_settings_every_finding_counts():
    one = judged(finding(module="a"), finding(module="b"))
    assert modules(one.diagnosis.findings) == ["a", "b"]
    assert (one.known, one.suppressed, one.vanished) == ((), (), ())
    assert one.rules == ("GS301",)


@pytest.mark.parametrize(
    ("entry", "accepted"),
    [
        (accept("GS301", "backbone.*"), True),
        (accept("GS3", "*"), True),
        (accept("dead-units", "backbone.1"), True),
        (accept("GS301", "backbone.*", target="n?t"), True),
        (accept("GS301", "head.*"), False),
        (accept("GS302", "backbone.*"), False),
        (accept("GS301", "backbone.*", target="other"), False),
        (accept("GS301", "Backbone.*"), False),
    ],
)
def test_a_suppression_holds_for_its_rule_its_modules_and_its_target(entry, accepted):
    sick = finding(code="GS301", pathology="dead-units", module="backbone.1")
    one = judged(sick, suppress=(entry,))
    assert [s.finding for s in one.suppressed] == ([sick] if accepted else [])
    assert list(one.diagnosis.findings) == ([] if accepted else [sick])
    assert [s.reason for s in one.suppressed] == ["on purpose"] * accepted


def test_a_finding_for_several_modules_is_suppressed_only_if_all_of_them_are():
    group = finding(module="backbone.1", alike=("backbone.1", "head"), code="GS301")
    assert judged(group, suppress=(accept("GS301", "backbone.*"),)).diagnosis.findings == (group,)
    assert judged(group, suppress=(accept("GS301", "*"),)).diagnosis.findings == ()


def test_several_entries_and_the_baseline_accept_together_what_none_of_them_accepts_alone():
    group = finding(code="GS301", module="a", alike=("a", "b", "c"))
    entries = [Suppression(rule="GS301", module=module, reason=f"because of {module}") for module in "abc"]
    (accepted,) = judged(group, suppress=entries).suppressed
    assert accepted.reason == "because of a; because of b; because of c"
    assert judged(group, suppress=entries[:2]).diagnosis.findings == (group,)
    assert judged(group, suppress=entries[:2], known=[("GS301", "c")]).known == (group,)
    assert judged(group, suppress=entries[1:2], known=[("GS301", "c")]).diagnosis.findings == (group,)


def test_what_follows_from_a_suppressed_root_in_the_same_modules_goes_with_it():
    root = finding(code="GS301", module="backbone.1")
    inside = finding(code="GS501", module="backbone.0", role=Role.SYMPTOM, caused_by=("backbone.1", "GS301"))
    outside = replace(inside, module="stem")
    stranger = replace(inside, role=Role.ROOT, caused_by=None)

    def kept(*found):
        return list(judge_related(found, accept("GS301", "backbone.*")).diagnosis.findings)

    assert kept(root, inside, outside) == [outside]
    assert kept(root, stranger) == [stranger]


def judge_related(found, *entries):
    """`judge`, with the relations as they are given: the engine would draw its own."""
    diagnosis = Diagnosis(findings=found, not_judged=(), steps=10, sites=4)
    blank = judge("net", [TRACE], Policy(rules=()))
    return sorted_out(replace(blank, diagnosis=diagnosis), Policy(rules=(), suppress=entries))


def test_the_baseline_takes_known_findings_out_and_tells_what_has_gone():
    one = judged(
        finding(code="GS301", module="a"),
        finding(code="GS301", module="new"),
        known=[("GS301", "a"), ("GS301", "gone"), ("GS999", "of a rule that was not asked")],
    )
    assert modules(one.known) == ["a"]
    assert modules(one.diagnosis.findings) == ["new"]
    assert one.vanished == (Identity("net", "GS301", "gone"),)


def test_a_known_finding_stays_known_at_other_steps_and_values_but_not_where_it_spreads():
    known = [("GS301", "a"), ("GS301", "b")]
    later = finding(code="GS301", module="a", first_step=77, last_step=99, measured=0.1, severity=Severity.ERROR)
    assert judged(later, known=known).diagnosis.findings == ()
    spread = finding(code="GS301", module="a", alike=("a", "b", "c"))
    assert judged(spread, known=known).diagnosis.findings == (spread,)
    smaller = finding(code="GS301", module="a", alike=("a",))
    assert judged(smaller, known=known).vanished == (Identity("net", "GS301", "b"),)


def test_what_could_not_be_judged_or_was_suppressed_has_not_gone():
    assert judged(rules=(Says(lacks="no data"),), known=[("GS301", "a")]).vanished == ()
    suppressed = judged(finding(code="GS301", module="a"), suppress=(accept("GS301", "a"),), known=[("GS301", "a")])
    assert suppressed.vanished == ()
    assert len(suppressed.suppressed) == 1


def test_a_trace_in_which_nothing_was_recorded_is_not_healthy():
    with pytest.raises(TraceError, match="net: no step was recorded"):
        judge("net", [trace_of(steps=0, output_rms=[1.0])], Policy(rules=()))


# ---------------------------------------------------------------- several seeds


def diagnosis(*findings, not_judged=()):
    return Diagnosis(findings=findings, not_judged=not_judged, steps=5, sites=3)


def test_seeds_are_merged_into_one_finding_each_the_worst_one():
    mild, grave = finding(module="a", severity=Severity.WARNING), finding(module="a", severity=Severity.ERROR)
    other = finding(module="b", severity=Severity.INFO)
    one = merged([diagnosis(mild), diagnosis(grave), diagnosis(other)], seeds=[0, 1, 2])
    assert [(f.module, f.severity) for f in one.findings] == [("a", Severity.ERROR), ("b", Severity.INFO)]
    assert one.findings[0].message.endswith(" Seen with seeds 0, 1 (2 of 3).")
    assert one.findings[1].message.endswith(" Seen with seed 2 (1 of 3).")
    assert (one.steps, one.sites) == (15, 3)


def test_one_seed_changes_nothing():
    only = diagnosis(finding())
    assert merged([only], seeds=[0]) is only


def test_a_rule_is_not_judged_only_if_no_seed_let_it_judge():
    lacks, short = Unjudged(rule="dead-units", reason="no data"), Unjudged(rule="saturation", reason="too short")
    broke = Unjudged(rule="recording", reason="a probe failed")
    one = merged([diagnosis(not_judged=(lacks, broke)), diagnosis(not_judged=(lacks, short))])
    assert one.not_judged == (lacks, broke)


# ---------------------------------------------------------------- the gradient profile


def profile(**gains):
    return Baseline(profiles={"net": gains})


def test_a_gain_that_drifts_is_an_error_and_one_within_bounds_is_none():
    one = judge("net", [TRACE], Policy(rules=(), baseline=profile(a=0.0, b=0.2), max_drift=0.5))
    (found,) = one.diagnosis.findings
    assert (found.code, found.module, found.severity) == ("gain-drift", "b", Severity.ERROR)
    assert found.measured == pytest.approx(0.8)  # log₁₀(10 / 1) = 1 against 0.2
    assert found.threshold == 0.5
    assert "multiplied by 10 " in found.message
    assert "0.80 decades more, 0.5 are allowed." in found.message
    assert (found.first_step, found.last_step) == (0, 9)
    assert judge("net", [TRACE], Policy(rules=(), baseline=profile(a=0.0, b=0.6), max_drift=0.5)).diagnosis.ok
    assert one.gains == {"a": pytest.approx(0.0), "b": pytest.approx(1.0)}


def test_drift_can_be_suppressed():
    policy = Policy(rules=(), suppress=(accept("gain-drift", "b"),), baseline=profile(b=0.0), max_drift=0.5)
    assert judge("net", [TRACE], policy).diagnosis.findings == ()


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        (None, "needs a baseline"),
        (Baseline(), "holds no gradient profile of net"),
        (profile(other=1.0), "none of its modules"),
    ],
)
def test_without_a_profile_drift_is_not_judged(baseline, said):
    one = judge("net", [TRACE], Policy(rules=(), baseline=baseline, max_drift=0.5))
    ((rule, reason),) = [(item.rule, item.reason) for item in one.diagnosis.not_judged]
    assert rule == "gain-drift"
    assert said in reason

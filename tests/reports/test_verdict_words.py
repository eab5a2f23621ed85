from dataclasses import replace

import pytest
from examples import HEALTHY, SICK, diagnosis, finding, network
from verdicts import BROKEN, ENCODER, EVERYTHING, MANY, NOTHING, PASSED, WARNED, dead

from gradscope.findings import Severity, Unjudged
from gradscope.reports.verdict_words import (
    duration,
    gone,
    last_line,
    leading,
    not_judged,
    notes,
    outcome,
    particulars,
    shown,
    standing,
    verdict_of,
)
from gradscope.verdict import Identity, Judged, Suppressed, Verdict


def test_roots_lead_and_symptoms_without_their_root_are_shown_with_what_they_follow_from():
    first, second = shown(ENCODER)
    assert first.finding.code == "GS101"
    assert [f.code for f in first.folded] == ["GS302"] * 6
    assert (first.follows, first.written) == ("", "acme/models.py:14")
    assert second.finding.code == "GS501"
    assert second.follows == "follows from GS301 at encoder.act, which is suppressed: frozen, pruned on purpose"


def test_the_symptoms_of_a_known_root_are_shown_together():
    root, *symptoms = SICK.findings
    (one,) = shown(Judged(target="a", diagnosis=diagnosis(*symptoms), known=(root,)))
    assert one.follows == "follows from GS101 at layers.3, which the baseline holds"
    assert (one.finding, one.folded) == (symptoms[0], tuple(symptoms[1:]))


def test_every_finding_is_shown_once():
    for one in EVERYTHING.targets:
        told = [f for item in shown(one) for f in (item.finding, *item.folded)]
        assert sorted(map(id, told)) == sorted(map(id, one.diagnosis.findings))


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (EVERYTHING, "failed: 1 error in 1 of 4 targets; 1 could not be judged"),
        (PASSED, "passed: 10 targets"),
        (NOTHING, "nothing was judged"),
        (MANY, "failed: 300 errors"),
        (Verdict(targets=(BROKEN,)), "failed: it could not be judged"),
        (Verdict(targets=(BROKEN, WARNED)), "failed: 1 of 2 targets could not be judged"),
        (Verdict(targets=(WARNED,)), "passed: 1 target, with 1 warning (fail-on: error)"),
        (Verdict(targets=(WARNED,), fail_on=Severity.WARNING), "failed: 1 warning"),
        (Verdict(targets=(ENCODER,), fail_on=None), "passed: 1 target, with 1 error, 1 warning (fail-on: never)"),
    ],
)
def test_the_last_line(verdict, line):
    assert last_line(verdict) == line


def test_a_severe_symptom_of_a_mild_root_is_what_fails():
    root = finding(severity=Severity.WARNING)
    symptom = next(f for f in SICK.findings if f.caused_by)
    severe = replace(symptom, severity=Severity.ERROR)
    assert leading([root, severe]) == [root]
    assert last_line(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(root, severe)),))) == ("failed: 1 error")


def test_how_a_target_stands():
    assert [outcome(one, Severity.ERROR) for one in EVERYTHING.targets] == ["failed", "passed", "broken", "passed"]
    assert standing(ENCODER, Severity.ERROR) == "failed: 1 error, 1 warning"
    assert standing(ENCODER, None) == "passed: 1 error, 1 warning"
    assert particulars(ENCODER) == "10 steps, 2 seeds, 1.2 s, 1 known, 1 suppressed"
    assert particulars(BROKEN) == ""


def test_a_finding_of_several_modules_counts_as_in_the_baseline():
    cut = dead(module="a", alike=("a", "b", "c"))
    one = Judged(target="x", diagnosis=HEALTHY, known=(cut,), suppressed=(Suppressed(finding=cut, reason="old"),))
    assert particulars(one).endswith("3 known, 3 suppressed")
    assert next(notes(Verdict(targets=(one,)))).startswith("3 findings are known to the baseline: GS301 a")


def test_durations():
    assert [duration(s) for s in (0.04, 9.94, 9.96, 74.4)] == ["0.0 s", "9.9 s", "10 s", "74 s"]


def test_what_does_not_count_is_a_line_each():
    assert list(notes(EVERYTHING)) == [
        "1 finding is known to the baseline: GS102 head (encoder)",
        "1 finding is suppressed (frozen, pruned on purpose): GS301 encoder.act (encoder)",
        "1 finding of the baseline is gone (GS301 old.act (encoder)); --write-baseline lets it shrink",
    ]
    many = tuple(Suppressed(finding=dead(module=f"b.{i}"), reason="old") for i in range(9))
    assert list(notes(Verdict(targets=(Judged(target="a", diagnosis=HEALTHY, suppressed=many),)))) == [
        "9 findings are suppressed (old): GS301 b.0, GS301 b.1, GS301 b.2, GS301 b.3 and 5 more"
    ]


def test_what_has_gone_names_the_option_that_lets_the_baseline_shrink():
    four = tuple(Identity("a", "GS301", name) for name in "wxyz")
    both = [Judged(target="a", diagnosis=HEALTHY, vanished=four), Judged(target="b", diagnosis=HEALTHY)]
    assert gone(Verdict(targets=tuple(both[1:]))) == ""
    assert gone(Verdict(targets=tuple(both[:1])), option="--this") == (
        "4 findings of the baseline are gone (GS301 w, GS301 x, GS301 y, GS301 z); --this lets it shrink"
    )
    assert "GS301 z (a)); --write-baseline" in gone(Verdict(targets=tuple(both)))


def test_a_rule_that_lacked_data_in_some_targets_names_them():
    lacking = Unjudged(rule="a-rule", reason="needs more")
    targets = [Judged(target=f"t{i}", diagnosis=diagnosis(not_judged=[lacking])) for i in range(6)]
    assert not_judged(Verdict(targets=tuple(targets))) == [("a-rule", "needs more")]
    targets.append(Judged(target="other", diagnosis=HEALTHY))
    assert not_judged(Verdict(targets=tuple(targets))) == [("a-rule (t0, t1, t2, t3 and 2 more)", "needs more")]


def test_a_trace_alone_is_one_target():
    (one,) = verdict_of(network(0.5), SICK).targets
    assert one.target == "MLP"
    assert one.diagnosis is SICK

"""Identities of findings, and when the gate passes."""

import hashlib

import pytest
from examples import finding

from gradscope.findings import Diagnosis, Severity
from gradscope.verdict import Identity, Judged, Verdict


def judged(*findings, error=""):
    return Judged(target="net", diagnosis=Diagnosis(findings=findings, not_judged=(), steps=3, sites=2), error=error)


def test_a_fingerprint_is_of_the_three_words_and_of_nothing_else():
    assert Identity("net", "GS301", "act1").fingerprint == hashlib.sha256(b"net\0GS301\0act1").hexdigest()[:32]
    words = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("", "ab", "c")]
    assert len({Identity(*three).fingerprint for three in words}) == len(words)


def test_a_finding_for_several_modules_has_an_identity_for_each():
    one = judged()
    assert one.identities(finding(code="GS301", module="act1")) == (("net", "GS301", "act1"),)
    group = finding(code="GS301", module="act1", alike=("act1", "act2"))
    assert [identity.module for identity in one.identities(group)] == ["act1", "act2"]


@pytest.mark.parametrize(
    ("severities", "fail_on", "code"),
    [
        ([], Severity.INFO, 0),
        (["warning"], Severity.ERROR, 0),
        (["warning"], Severity.WARNING, 1),
        (["error"], Severity.ERROR, 1),
        (["info"], Severity.WARNING, 0),
        (["info", "error"], Severity.ERROR, 1),
        (["error"], None, 0),
    ],
)
def test_the_exit_code_follows_the_worst_finding(severities, fail_on, code):
    findings = [finding(severity=Severity(s)) for s in severities]
    verdict = Verdict(targets=(judged(), judged(*findings)), fail_on=fail_on)
    assert verdict.exit_code == code
    assert verdict.ok is (code == 0)


def test_what_could_not_be_judged_outweighs_every_finding():
    sick, broken = judged(finding(severity=Severity.ERROR)), judged(error="it fell over")
    assert Verdict(targets=(sick, broken)).exit_code == 2
    assert Verdict(targets=(broken,), fail_on=None).exit_code == 2
    assert Verdict(targets=()).exit_code == 2
    assert not Verdict(targets=(broken,)).ok

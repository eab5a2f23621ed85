"""What a reader sees first of a page."""

import pytest
from builders import trace_of
from examples import HEALTHY, SICK, diagnosis, finding, network

from gradscope.findings import Role, Severity, Unjudged
from gradscope.reports.page_verdict import span, state_of, verdict_section


def heads(said, trace=None):
    return verdict_section(trace or network(0.5), said).context["heads"]


def test_a_root_leads_and_its_symptoms_are_folded_by_kind():
    (head,) = heads(SICK)
    (group,) = head.folded
    assert head.finding.code == "GS101"
    assert group.places == tuple(f"layers.{i}" for i in range(5, 11))
    assert head.folded_words == "6 symptoms that this explains"
    assert head.span == "0 to 9"


def test_a_symptom_without_its_root_says_what_it_follows_from():
    alone = finding(code="GS302", role=Role.SYMPTOM, caused_by=("act", "GS301"))
    (head,) = heads(diagnosis(alone))
    assert head.follows == "follows from GS301 at act"


def test_where_the_module_is_written_is_said_where_it_is_known():
    trace = trace_of(output_rms=[1.0], meta={"sources": {"net.py": {"layers": 12}}})
    (head,) = heads(diagnosis(finding(module="layers.3")), trace)
    assert head.written == "net.py:12"
    (head,) = heads(diagnosis(finding(module="layers.3")))
    assert head.written == ""


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (HEALTHY, "healthy"),
        (SICK, "error"),
        (diagnosis(finding(severity=Severity.INFO)), "info"),
        (diagnosis(finding(severity=Severity.WARNING), finding(severity=Severity.INFO)), "warning"),
    ],
)
def test_the_colour_is_that_of_the_worst(said, state):
    assert state_of(said) == state


def test_what_is_not_judged_is_not_called_clean():
    said = diagnosis(not_judged=[Unjudged(rule="saturation", reason="no activation")])
    context = verdict_section(network(0.9), said).context
    assert context["verdict"] == "no finding, 1 rule not judged"
    assert context["unjudged"]
    assert not verdict_section(network(0.9), HEALTHY).context["unjudged"]


def test_one_step_is_no_span():
    assert span(finding(first_step=4, last_step=4)) == "4"

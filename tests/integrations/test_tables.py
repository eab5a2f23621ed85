"""Findings as rows and as Markdown."""

from examples import finding

from gradscope.findings import Diagnosis, Severity, Unjudged
from gradscope.integrations.selection import Extreme
from gradscope.integrations.tables import FINDING_COLUMNS, counts, extremes_text, finding_rows, findings_text
from gradscope.records import Quantity, Site

FOUND = Diagnosis(
    findings=(finding(), finding(code="GS301", module="", severity=Severity.WARNING, message="|a|\nb")),
    not_judged=(Unjudged(rule="saturation", reason="no tanh"),),
    steps=10,
    sites=30,
)


def test_a_row_for_each_finding() -> None:
    first, second = (dict(zip(FINDING_COLUMNS, row, strict=True)) for row in finding_rows(FOUND))
    assert (first["code"], first["module"], first["severity"], first["last_step"]) == ("GS101", "layers.3", "error", 9)
    assert second["module"] == "(model)"
    assert counts(FOUND) == {"errors": 1.0, "warnings": 1.0}


def test_the_text_is_a_table_with_what_was_not_judged() -> None:
    lines = findings_text(FOUND).splitlines()
    assert lines[0] == "2 root findings, 10 steps, 30 sites"
    assert lines[2].startswith("| severity | code |")
    assert "| \\|a\\| b |" in lines[5], "a cell stays in its cell"
    assert lines[-1] == "- saturation: no tanh"
    one = Diagnosis(findings=(finding(),), not_judged=(), steps=10, sites=30)
    assert findings_text(one).startswith("1 root finding, 10 steps")
    assert "healthy" in findings_text(Diagnosis(findings=(), not_judged=(), steps=1, sites=1))


def test_sites_that_stand_out() -> None:
    site = Site(module="fc", module_type="Linear", quantity=Quantity.OUTPUT_GRAD)
    assert extremes_text([Extreme(measure="smallest gain", site=site, value=0.12345)]).splitlines()[-1] == (
        "| smallest gain | fc:output_grad | 0.123 |"
    )

import json
import math
from dataclasses import replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gradscope.findings import Diagnosis, Finding, Json, Role, Severity, Unjudged, finite
from gradscope.records import Quantity, Site

HOSTILE = "<script>alert('&')</script>[bold]"


def finding(
    *,
    code: str = "GS101",
    severity: Severity = Severity.ERROR,
    module: str = "fc1",
    measured: float = 0.25,
    role: Role = Role.ROOT,
    caused_by: tuple[str, str] | None = None,
) -> Finding:
    return Finding(
        code=code,
        pathology="vanishing-gradient",
        severity=severity,
        module=module,
        sites=(Site(module=module, module_type="Linear", quantity=Quantity.OUTPUT_GRAD),),
        first_step=0,
        last_step=9,
        measured=measured,
        threshold=0.5,
        unit="per layer",
        message=f"the gradient of {module} shrinks",
        cause="a saturating activation",
        remedy="try ReLU",
        role=role,
        caused_by=caused_by,
    )


def diagnosis(*findings: Finding) -> Diagnosis:
    unjudged = (Unjudged(rule="dead-units", reason=f"the trace holds no {HOSTILE}"),)
    return Diagnosis(findings=findings, not_judged=unjudged, steps=10, sites=3)


ROOT = finding()
SYMPTOM = finding(code="GS501", severity=Severity.WARNING, role=Role.SYMPTOM, caused_by=("fc1", "GS101"))
OTHER = finding(code="GS301", severity=Severity.INFO, module="fc2")


def test_severities_are_ordered() -> None:
    assert [s.rank for s in (Severity.INFO, Severity.WARNING, Severity.ERROR)] == [0, 1, 2]
    assert Severity.ERROR.reaches(Severity.WARNING)
    assert Severity.INFO.reaches(Severity.INFO)
    assert not Severity.INFO.reaches(Severity.WARNING)


@pytest.mark.parametrize(
    ("findings", "worst", "ok"),
    [
        ((), None, True),
        ((OTHER,), Severity.INFO, True),
        ((OTHER, SYMPTOM), Severity.WARNING, True),
        ((OTHER, ROOT), Severity.ERROR, False),
    ],
)
def test_only_an_error_is_not_ok(findings: tuple[Finding, ...], worst: Severity | None, ok: bool) -> None:
    found = diagnosis(*findings)
    assert (found.worst, found.ok) == (worst, ok)
    assert len(found) == len(findings)
    assert tuple(found) == findings
    assert bool(found)  # `if diagnosis:` must not mean `if sick:`


def test_symptoms_belong_to_their_root() -> None:
    found = diagnosis(ROOT, OTHER, SYMPTOM)
    assert found.roots == (ROOT, OTHER)
    assert found.symptoms_of(ROOT) == (SYMPTOM,)
    assert found.symptoms_of(OTHER) == ()
    assert found.codes == {"GS101", "GS501"}  # an info is no pathology


def test_the_dictionary_has_the_keys_of_the_contract() -> None:
    document = diagnosis(ROOT, SYMPTOM).to_dict()
    assert list(document) == ["schema", "ok", "findings", "not_judged", "steps", "sites"]
    assert document["schema"] == "gradscope/diagnosis/1"
    keys = "code pathology severity module sites first_step last_step time measured threshold unit message cause remedy"
    root, symptom = document["findings"]
    assert set(root) == {*keys.split(), "role", "caused_by"}
    assert (root["sites"], root["severity"], root["role"], root["caused_by"]) == (
        ["fc1:output_grad"],
        "error",
        "root",
        None,
    )
    assert symptom["caused_by"] == ["fc1", "GS101"]
    assert document["not_judged"][0]["rule"] == "dead-units"


@pytest.mark.parametrize(("number", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (0.25, 0.25)])
def test_numbers_that_json_lacks_are_strings(number: float, text: object) -> None:
    document = json.dumps(diagnosis(finding(measured=number)).to_dict(), allow_nan=False)
    assert json.loads(document)["findings"][0]["measured"] == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_whatever_is_written_is_valid_json(value: Json) -> None:
    text = json.dumps(finite(value), allow_nan=False)
    assert finite(json.loads(text)) == finite(value)


def test_the_frame_has_a_row_for_each_finding() -> None:
    frame = diagnosis(ROOT, SYMPTOM).to_frame()
    assert frame["code"].tolist() == ["GS101", "GS501"]
    assert frame["measured"].tolist() == [0.25, 0.25]
    assert list(diagnosis().to_frame().columns) == list(frame.columns)


def test_html_of_a_hostile_module_is_text() -> None:
    page = diagnosis(finding(module=HOSTILE))._repr_html_()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == 3  # module, message, not judged


def test_a_terminal_shows_what_why_and_the_way_out() -> None:
    console = Console(file=StringIO(), width=100, color_system=None)
    console.print(diagnosis(finding(module=HOSTILE), SYMPTOM))
    text = console.file.getvalue()
    for expected in ("GS101", "vanishing-gradient", HOSTILE, "a saturating activation", "try ReLU", "dead-units"):
        assert expected in text


def test_healthy_is_said_only_where_every_rule_could_judge() -> None:
    def printed(shown: Diagnosis) -> str:
        console = Console(file=StringIO(), width=100, color_system=None)
        console.print(shown)
        return console.file.getvalue()

    assert printed(diagnosis()).startswith("no finding, 1 rule not judged")
    assert printed(replace(diagnosis(), not_judged=())).startswith("healthy")
    assert printed(replace(diagnosis(), steps=0)).startswith("nothing recorded")


def test_a_title_is_code_and_name_once_each():
    found = finding()
    assert replace(found, code="GS301", pathology="dead-units").title == "GS301 dead-units"
    assert replace(found, code="gain-drift", pathology="gain-drift").title == "gain-drift"

import dataclasses

from examples import SICK, SYMPTOMS, diagnosis, finding, printed

from gradscope.reports.diagnosis_text import diagnosis_lines, finding_with_symptoms, grouped_by_reason


def test_a_diagnosis_is_its_verdict_and_then_its_findings():
    first, blank, head, *_ = [printed(part).rstrip() for part in diagnosis_lines(SICK)]
    assert first == "1 error  10 steps, 30 sites"
    one, *_ = [printed(part).rstrip() for part in diagnosis_lines(dataclasses.replace(SICK, steps=1))]
    assert one == "1 error  1 step, 30 sites"
    assert not blank
    assert head.startswith("error GS101 vanishing-gradient  layers.3")


def test_the_line_of_the_source_stands_behind_the_module():
    text = printed(finding_with_symptoms(finding(), (), written="acme/models.py:12"))
    assert text.splitlines()[0].rstrip() == "error GS101 vanishing-gradient  layers.3  acme/models.py:12"


def test_what_a_symptom_follows_from_stands_there_and_the_others_beside_it():
    text = " ".join(printed(finding_with_symptoms(SYMPTOMS[0], SYMPTOMS[1:3], follows="follows from GS1")).split())
    assert "from GS1 also GS302 saturation at 2 places: layers.6, layers.7" in text


def test_more_names_than_a_line_takes_are_counted():
    text = " ".join(printed(grouped_by_reason("not seen", [(f"m{i}", "never ran") for i in range(15)])).split())
    assert text.startswith("not seen m0, m1,")
    assert text.endswith("m11 and 3 more: never ran")
    assert grouped_by_reason("not seen", []) is None


def test_symptoms_without_their_root_are_shown_too():
    text = " ".join(printed(diagnosis(*SYMPTOMS)).split())
    assert text.startswith("1 warning")
    assert "warning GS302 saturation layers.5" in text
    assert "from GS101 at layers.3 also GS302 saturation at 5 places" in text


def test_what_has_no_code_of_its_own_is_called_once():
    text = printed(finding_with_symptoms(finding(code="gain-drift", pathology="gain-drift", module="fc"), ()))
    assert text.splitlines()[0].rstrip() == "error gain-drift  fc"


def test_a_terminal_obeys_no_name():
    text = printed(diagnosis(finding(module="a\x1b[2Jb", message="\x07\x9b1m of a\tb")))
    assert "a\\x1b[2Jb" in text
    assert "\\x07\\x9b1m of a\\tb" in text

import json
from io import StringIO
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import pytest
from examples import SICK, diagnosis, finding, network
from verdicts import ALIKE, ENCODER, EVERYTHING, EXAMPLES, ODD, dead

from gradscope import plugins
from gradscope.reports.sarif import FINGERPRINT, Sarif
from gradscope.sources import Place
from gradscope.verdict import GAIN_DRIFT, Identity, Judged, Verdict

SCHEMA = Path(__file__).parents[1] / "schemas" / "sarif-schema-2.1.0.json"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())


def document(verdict):
    stream = StringIO()
    assert Sarif().write_verdict(verdict, stream) == ()
    return json.loads(stream.getvalue())


def run(verdict):
    (one,) = document(verdict)["runs"]
    return one


def results(verdict):
    return run(verdict)["results"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_valid(validator, name):
    validator.validate(document(EXAMPLES[name]))


def test_a_trace_alone_is_valid(validator, tmp_path):
    (path,) = Sarif().write(network(0.25), SICK, tmp_path)
    validator.validate(json.loads(path.read_text(encoding="utf-8")))
    assert path.name == "gradscope.sarif"


def test_a_verdict_as_sarif(assert_golden):
    whole = document(EVERYTHING)
    driver = whole["runs"][0]["tool"]["driver"]
    driver["version"] = driver["semanticVersion"] = "1.2.3"
    driver["rules"] = [{key: rule[key] for key in ("id", "name", "defaultConfiguration")} for rule in driver["rules"]]
    assert_golden("verdict.sarif", json.dumps(whole, indent=1, ensure_ascii=False))


def test_every_rule_has_its_texts():
    verdict = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(), rules=_codes()),))
    rules = run(verdict)["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == sorted(_codes())
    for rule in rules:
        assert rule["shortDescription"]["text"].endswith(".")
        assert rule["fullDescription"]["text"].startswith(rule["shortDescription"]["text"])
        assert "**How it is measured:**" in rule["help"]["markdown"]
        assert "How it is measured:" in rule["help"]["text"]


def _codes():
    return tuple(rule.code for rule in plugins.load("rules"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_result_for_each_rule_and_module_with_its_rule_and_fingerprint(name):
    verdict = EXAMPLES[name]
    found = results(verdict)
    identities = [
        identity
        for one in verdict.targets
        for f in (*one.diagnosis.findings, *one.known, *(item.finding for item in one.suppressed))
        for identity in one.identities(f)
    ] + [gone for one in verdict.targets for gone in one.vanished]
    assert sorted(r["partialFingerprints"][FINGERPRINT] for r in found) == sorted(i.fingerprint for i in identities)
    rules = run(verdict)["tool"]["driver"]["rules"]
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in found)
    assert all(len(r["locations"]) == 1 for r in found)


def test_modules_that_are_sick_alike_have_a_result_each_that_points_to_the_others():
    first, second, third, alone = results(ALIKE)
    assert [_module(r) for r in (first, second, third, alone)] == ["a", "b", "c", "d"]
    assert [_line(r) for r in (first, second)] == [("m.py", 1), ("m.py", 2)]
    assert [_module({"locations": [related]}) for related in first["relatedLocations"]] == ["b", "c", "encoder.act"]


def _module(result):
    return result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]


def _line(result):
    physical = result["locations"][0]["physicalLocation"]
    return unquote(physical["artifactLocation"]["uri"]), physical["region"]["startLine"]


def test_what_a_finding_follows_from_is_a_related_location():
    symptom = next(r for r in results(EVERYTHING) if r["ruleId"] == "GS302")
    (related,) = symptom["relatedLocations"]
    assert related["message"]["text"] == "layers.3: it follows from GS101 here"


def test_states_and_suppressions():
    found = {(r["ruleId"], _module(r)): r for r in results(EVERYTHING)}
    assert found["GS101", "layers.3"]["baselineState"] == "new"
    assert found["GS102", "head"]["baselineState"] == "unchanged"
    absent = found["GS301", "old.act"]
    assert (absent["baselineState"], absent["kind"], absent["level"]) == ("absent", "pass", "none")
    (reason,) = found["GS301", "encoder.act"]["suppressions"]
    assert reason["justification"] == "frozen, pruned on purpose"
    without = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(finding())),))
    assert "baselineState" not in results(without)[0]


def test_a_broken_target_and_what_was_not_judged_are_notifications():
    (invocation,) = run(EVERYTHING)["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 2)
    note, error = invocation["toolExecutionNotifications"]
    assert note["message"]["text"] == "symmetric-init could not judge encoder: the trace holds no weight"
    assert note["associatedRule"]["id"] == "GS504"
    assert (error["level"], "did you mean 'build'?" in error["message"]["text"]) == ("error", True)


@pytest.mark.parametrize(
    ("file", "artifact"),
    [
        ("acme/models.py", {"uri": "acme/models.py", "uriBaseId": "%SRCROOT%"}),
        ("mein modell/é%#.py", {"uri": "mein%20modell/%C3%A9%25%23.py", "uriBaseId": "%SRCROOT%"}),
        ("/opt/a b/x.py", {"uri": "file:///opt/a%20b/x.py"}),
        ("C:/a b/x.py", {"uri": "file:///C:/a%20b/x.py"}),
    ],
)
def test_addresses_of_files(validator, file, artifact):
    places = {"layers": Place(file=file, line=5)}
    verdict = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(finding()), places=places),))
    validator.validate(document(verdict))
    (result,) = results(verdict)
    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == artifact


def test_without_a_known_line_it_is_shown_where_the_target_is_set_up():
    strange = next(r for r in results(EVERYTHING) if _module(r) == ODD)
    assert _line(strange) == ("pyproject.toml", 1)


def test_what_no_rule_finds_has_an_entry_too(validator):
    drift = finding(code=GAIN_DRIFT, pathology=GAIN_DRIFT, module="")
    verdict = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(drift)),))
    validator.validate(document(verdict))
    assert [rule["id"] for rule in run(verdict)["tool"]["driver"]["rules"]] == [GAIN_DRIFT]
    assert _module(results(verdict)[0]) == "(model)"


def test_infinite_numbers_are_strings():
    verdict = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(dead(measured=float("inf")))),))
    assert results(verdict)[0]["properties"]["measured"] == "inf"


def test_fingerprints_do_not_depend_on_numbers():
    one, other = (
        results(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(dead(measured=m, first_step=s))),)))
        for m, s in ((1.0, 0), (0.9, 7))
    )
    assert one[0]["partialFingerprints"] == other[0]["partialFingerprints"]
    assert one[0]["partialFingerprints"][FINGERPRINT] == Identity("a", "GS301", "encoder.act").fingerprint
    assert ENCODER.suppressed

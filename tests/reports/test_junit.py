import junitparser
import pytest
from examples import SICK, diagnosis, finding, network
from verdicts import ALIKE, ENCODER, EVERYTHING, EXAMPLES, MANY, ODD, WARNED

from gradscope.findings import Severity, Unjudged
from gradscope.reports.junit import JUnit
from gradscope.verdict import GAIN_DRIFT, Judged, Verdict


@pytest.fixture
def read(tmp_path):
    def suites(verdict):
        (path,) = JUnit().write_verdict(verdict, tmp_path / "gate.xml")
        return junitparser.JUnitXml.fromfile(str(path))

    return suites


def cases(suite):
    return {case.name: case for case in suite}


def test_a_verdict_as_junit(assert_golden, tmp_path):
    (path,) = JUnit().write_verdict(EVERYTHING, tmp_path / "gate.xml")
    assert_golden("verdict.xml", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_counts_are_those_that_a_reader_counts(read, name):
    found = read(EXAMPLES[name])
    said = (found.tests, found.failures, found.errors, found.skipped)
    for suite in found:
        told = (suite.tests, suite.failures, suite.errors, suite.skipped)
        suite.update_statistics()
        assert told == (suite.tests, suite.failures, suite.errors, suite.skipped)
    found.update_statistics()
    assert said == (found.tests, found.failures, found.errors, found.skipped)
    assert [suite.name for suite in found] == [one.target for one in EXAMPLES[name].targets]


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_fails_when_the_gate_does(read, name):
    found = read(EXAMPLES[name])
    assert bool(found.failures or found.errors) is (not EXAMPLES[name].ok)


def test_a_rule_that_was_asked_is_a_case(read):
    encoder, decoder, tagger, healthy = read(EVERYTHING)
    assert {name.split()[0] for name in cases(healthy)} == set(ENCODER.rules)
    (failure,) = cases(encoder)["GS101 vanishing-gradient"].result
    assert failure.message == "layers.3: each layer passes back 0.25 of its gradient, over 15 layers since step 0"
    assert "remedy use ReLU with He initialisation" in failure.text
    assert "GS302 saturation at 6 places" in failure.text
    (skipped,) = cases(encoder)["GS504 symmetric-init"].result
    assert skipped.message == "the trace holds no weight"
    (error,) = cases(tagger)["could be judged"].result
    assert error.message.endswith("did you mean 'build'?")
    assert decoder.failures == 0


def test_what_does_not_count_is_told_beside(read):
    encoder = cases(next(iter(read(EVERYTHING))))
    assert encoder["GS102 exploding-gradient"].system_out.strip() == "known to the baseline: head"
    assert encoder["GS301 dead-units"].system_out.strip() == "suppressed (frozen, pruned on purpose): encoder.act"
    assert "from   GS301 at encoder.act" in encoder["GS501 update-too-small"].system_out
    symptoms = encoder["GS302 saturation"].system_out
    assert symptoms.count("from   GS101 at layers.3") == 1
    assert "at 5 places" in symptoms


def test_the_place_of_the_first_failure_is_the_case_s(read):
    case = cases(next(iter(read(EVERYTHING))))["GS101 vanishing-gradient"]
    assert (case._elem.get("file"), case._elem.get("line")) == ("acme/models.py", "14")


def test_properties_of_a_target(read):
    suite = next(iter(read(EVERYTHING)))
    told = {one.name: one.value for one in suite.properties()}
    assert told == {
        "steps": "10", "sites": "30", "seeds": "0 1", "fail-on": "error", "known": "1", "suppressed": "1",
        "vanished": "1",
    }  # fmt: skip
    assert suite.time == 1.25


def test_several_findings_of_a_rule_are_one_failure(read):
    (failure,) = cases(next(iter(read(MANY))))["GS101 vanishing-gradient"].result
    assert failure.message == "layers.0: layer 0 (and 299 more findings)"
    assert failure.text.count("error GS101") == 300


def test_a_name_that_no_xml_can_hold_is_written_out(read):
    (suite,) = read(Verdict(targets=(WARNED,), fail_on=Severity.WARNING))
    (failure,) = cases(suite)["GS301 dead-units"].result
    assert ODD.replace("\x00", "\\x00") in failure.message


def test_what_no_rule_finds_and_what_is_no_rule_have_a_case(read):
    lacking = [Unjudged(rule="recording", reason="a probe failed"), Unjudged(rule="recording", reason="another")]
    drift = finding(code=GAIN_DRIFT, pathology=GAIN_DRIFT)
    (suite,) = read(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(drift, not_judged=lacking)),)))
    assert list(cases(suite)) == [GAIN_DRIFT, "recording"]
    (skipped,) = cases(suite)["recording"].result
    assert skipped.message == "a probe failed; another"


def test_a_finding_that_stands_for_several_modules_is_one(read):
    (suite,) = read(ALIKE)
    (failure,) = cases(suite)["GS301 dead-units"].result
    assert failure.text.count("error GS301") == 2


def test_a_trace_alone(tmp_path):
    (path,) = JUnit().write(network(0.25), SICK, tmp_path)
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    assert suite.name == "MLP"
    assert suite.failures == 1

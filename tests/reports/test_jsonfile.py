import json
from io import StringIO

import numpy as np
import pytest
from examples import SICK, diagnosis, finding, network
from verdicts import EVERYTHING, EXAMPLES

from gradscope.reports.jsonfile import JsonFile


def test_diagnosis_as_json(assert_golden):
    stream = StringIO()
    assert JsonFile().write(network(0.25), SICK, stream) == ()
    assert_golden("diagnosis.json", stream.getvalue())
    assert json.loads(stream.getvalue())["schema"] == "gradscope/diagnosis/1"


def test_nan_and_infinities_are_strings(tmp_path):
    said = diagnosis(finding(measured=float("nan"), threshold=float("-inf")))
    (path,) = JsonFile().write(network(0.25), said, tmp_path)
    assert path == tmp_path / "diagnosis.json"

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (one,) = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)["findings"]
    assert (one["measured"], one["threshold"]) == ("nan", "-inf")
    assert not np.isfinite(float(one["measured"]))


def test_verdict_as_json(assert_golden):
    stream = StringIO()
    assert JsonFile().write_verdict(EVERYTHING, stream) == ()
    assert_golden("verdict.json", stream.getvalue())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_verdict_holds_what_a_diagnosis_does_and_says_whose_each_finding_is(name, tmp_path):
    (path,) = JsonFile().write_verdict(EXAMPLES[name], tmp_path / "gate.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document.keys() >= SICK.to_dict().keys()
    assert document["ok"] is EXAMPLES[name].ok
    targets = {one["name"] for one in document["targets"]}
    findings = document["findings"] + document["known"] + document["suppressed"]
    assert {one["target"] for one in findings + document["vanished"]} <= targets
    prints = [one["fingerprint"] for one in findings + document["vanished"]]
    assert len(set(prints)) == len(prints)
    assert len(document["findings"]) == sum(len(one.diagnosis.findings) for one in EXAMPLES[name].targets)

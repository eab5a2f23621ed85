import json
from io import StringIO

import numpy as np
from examples import SICK, diagnosis, finding, network

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

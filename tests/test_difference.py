"""What differs between two runs, from traces and diagnoses made by hand."""

import json

import jsonschema
import numpy as np
import pytest
from builders import trace_of
from examples import finding

from gradscope.difference import DIFFERENCE_SCHEMA, Recorded, difference
from gradscope.errors import TraceError
from gradscope.findings import Diagnosis, Role, Severity, Unjudged

MODULES = ["stem", "fc", "act", "head"]


def run(*findings, name="run.h5", modules=MODULES, steps=20, every=1, not_judged=(), **measured):
    measured = measured or {"output_grad_rms": np.ones((steps, len(modules)))}
    trace = trace_of(steps=steps, modules=list(modules), every=every, meta={"model": "Net", "every": every}, **measured)
    said = Diagnosis(findings=findings, not_judged=tuple(not_judged), steps=steps, sites=len(trace.sites))
    return Recorded(name, trace, said)


DEAD = finding(code="GS301", pathology="dead-units", module="act")


def test_a_run_does_not_differ_from_itself():
    found = difference(run(DEAD), run(DEAD))
    assert found.is_empty
    assert (found.appeared, found.vanished, found.moved, found.regraded, found.changes) == ((), (), (), (), ())


def test_findings_appear_and_vanish():
    found = difference(run(DEAD), run(finding(module="stem")))
    assert [f.code for f in found.appeared] == ["GS101"]
    assert [f.code for f in found.vanished] == ["GS301"]
    assert not found.is_empty


def test_findings_move_in_space_and_in_time_and_change_their_severity():
    elsewhere = difference(run(DEAD), run(finding(code="GS301", pathology="dead-units", module="head")))
    assert [m.elsewhere for m in elsewhere.moved] == [True]
    later = difference(run(DEAD), run(finding(code="GS301", pathology="dead-units", module="act", first_step=9)))
    assert [m.at_another_time for m in later.moved] == [True]
    milder = difference(run(DEAD), run(finding(code="GS301", module="act", severity=Severity.WARNING)))
    assert [(m.a.severity, m.b.severity) for m in milder.regraded] == [(Severity.ERROR, Severity.WARNING)]
    for one in (elsewhere, later, milder):
        assert (one.appeared, one.vanished) == ((), ())
        assert not one.is_empty


def test_an_onset_that_lies_between_two_recorded_steps_has_not_moved():
    sparse = run(finding(code="GS301", module="act", first_step=10), steps=4, every=10)
    assert difference(run(finding(code="GS301", module="act", first_step=2), steps=31), sparse).moved == ()
    dense = run(finding(code="GS301", module="act", first_step=10), steps=31)
    (moved,) = difference(run(finding(code="GS301", module="act", first_step=2), steps=31), dense).moved
    assert moved.slack == pytest.approx(3.0)  # a tenth of 30


@pytest.mark.parametrize(("was", "now", "asked", "new"), [
    ([], ["error"], "error", 1),
    ([], ["warning"], "error", 0),
    ([], ["warning"], "info", 1),
    (["warning"], ["error"], "error", 1),  # it has become what is asked for
    (["warning"], ["error"], "warning", 0),
    (["error"], ["error"], "info", 0),
    (["error"], [], "info", 0),
])  # fmt: skip
def test_what_is_new(was, now, asked, new):
    a, b = ([finding(severity=Severity(s)) for s in severities] for severities in (was, now))
    assert len(difference(run(*a), run(*b)).new(Severity(asked))) == new


def test_a_finding_that_moved_is_not_new():
    found = difference(run(DEAD), run(finding(code="GS301", module="head")))
    assert found.new(Severity.INFO) == ()


def test_why_a_finding_may_lack_a_counterpart():
    def remark(a, b):
        found = difference(a, b)
        if found.appeared:
            return found.remark(found.appeared[0], other=found.a)
        return found.remark(found.vanished[0], other=found.b)

    silent = [Unjudged(rule="dead-units", reason="no activation")]
    assert remark(run(DEAD), run(not_judged=silent)) == "not judged in B: no activation"
    assert remark(run(not_judged=silent), run(DEAD)) == "not judged in A: no activation"
    assert remark(run(), run(finding(module="new"), modules=["fc", "new"])) == "A has no such module"
    assert remark(run(finding(module="act")), run(modules=["fc"])) == "B has no such module"
    assert remark(run(steps=5), run(finding(module="act", first_step=12))) == "A ends at step 4"
    assert remark(run(), run(DEAD)) == ""


def test_the_largest_change_of_each_measure_comes_first():
    ones = np.ones((20, 4))
    a = run(output_grad_l2_norm=ones, input_grad_l2_norm=ones)
    b = run(output_grad_l2_norm=ones, input_grad_l2_norm=ones * [1.0, 10.0, 0.01, 1.1])
    assert [(c.module, round(c.by, 3)) for c in difference(a, b).changes] == [("act", -2.0), ("fc", 1.0)]
    assert len(difference(a, b).compared.changes) == 4


def test_nothing_recorded_is_an_error():
    empty = run(steps=0, output_rms=np.ones((0, 4)))
    with pytest.raises(TraceError, match=r"'run.h5' holds no recorded step; there is nothing to compare"):
        difference(run(), empty)


ANY = {"type": "object"}
LIST = {"type": "array", "items": ANY}
SCHEMA = {
    "type": "object",
    "required": ["schema", "a", "b", "empty", "appeared", "vanished", "moved", "severity_changed", "modules", "steps",
                 "layers", "measured_only_in_a", "measured_only_in_b", "gradient"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": "gradscope/diff/1"}, "empty": {"type": "boolean"}, "a": ANY, "b": ANY,
        "appeared": LIST, "vanished": LIST, "moved": LIST, "severity_changed": LIST, "layers": LIST, "gradient": LIST,
        "measured_only_in_a": ANY, "measured_only_in_b": ANY,
        "steps": {"type": "object", "required": ["first", "last", "shared"]},
        "modules": {"type": "object", "required": ["paired", "prefix", "only_a", "only_b", "retyped"]},
    },
}  # fmt: skip


def test_as_json_it_is_complete_and_always_valid():
    a = run(DEAD, finding(module="stem"), output_grad_rms=np.full((20, 4), np.nan), output_grad_nonfinite_count=[1] * 4)
    b = run(
        finding(code="GS301", module="x.act", measured=float("nan")),
        finding(code="GS501", module="new", role=Role.SYMPTOM),
        name="b.h5",
        modules=["x.stem", "x.fc", "x.act", "x.head", "new"],
    )
    document = json.loads(json.dumps(difference(a, b).to_dict(), allow_nan=False))
    jsonschema.validate(document, SCHEMA)
    assert document["schema"] == DIFFERENCE_SCHEMA
    assert document["b"]["name"] == "b.h5"
    assert document["modules"]["prefix"] == {"text": "x.", "of": "b"}
    assert document["modules"]["only_b"] == ["new"]
    assert [f["code"] for f in document["vanished"]] == ["GS101"]
    assert document["appeared"][0]["remark"] == "A has no such module"
    assert document["gradient"][0]["a"]["rms"] == "nan"

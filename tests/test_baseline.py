"""The baseline's file, and what becomes of it when targets come and go."""

import json
import os
from pathlib import Path

import pytest
from examples import finding
from hypothesis import given
from hypothesis import strategies as st

from gradscope.baseline import Baseline, baseline_before, baseline_of, read_baseline, write_baseline
from gradscope.errors import UsageError
from gradscope.findings import Diagnosis
from gradscope.verdict import Identity, Judged

WORDS = st.text(max_size=12)
BASELINES = st.builds(
    Baseline,
    findings=st.frozensets(st.builds(Identity, WORDS, WORDS, WORDS), max_size=5),
    profiles=st.dictionaries(
        WORDS, st.dictionaries(WORDS, st.integers(-9999, 9999).map(lambda n: n / 1000), max_size=4), max_size=3
    ),
)


@given(BASELINES)
def test_what_is_written_is_read_again(baseline):
    document = json.loads(baseline.to_json())
    assert {(f["target"], f["rule"], f["module"]) for f in document["findings"]} == baseline.findings
    assert document["profiles"] == baseline.profiles
    assert document["schema"] == "gradscope/baseline/1"


def test_the_file_is_one_line_for_each_thing_in_order(tmp_path: Path):
    file = tmp_path / "known.json"
    baseline = Baseline(
        findings=frozenset({Identity("b", "GS301", "x"), Identity("a", "GS301", "y"), Identity("a", "GS101", "")}),
        profiles={"b": {"fc2": 0.25, "fc1": -0.12345, "größe": -0.0001}},
    )
    write_baseline(baseline, file)
    assert file.read_text(encoding="utf-8").splitlines() == [
        "{",
        ' "schema": "gradscope/baseline/1",',
        ' "findings": [',
        '  {"target": "a", "rule": "GS101", "module": ""},',
        '  {"target": "a", "rule": "GS301", "module": "y"},',
        '  {"target": "b", "rule": "GS301", "module": "x"}',
        " ],",
        ' "profiles": {',
        '  "b": {',
        '   "fc1": -0.123,',
        '   "fc2": 0.25,',
        '   "größe": 0.0',
        "  }",
        " }",
        "}",
    ]
    assert read_baseline(file).findings == baseline.findings
    assert read_baseline(file).of("a") == {i for i in baseline.findings if i.target == "a"}
    assert read_baseline(file).without(["a"]).findings == {Identity("b", "GS301", "x")}
    assert read_baseline(file).without(["b"]).profiles == {}


def test_it_holds_what_was_known_and_what_is_new_but_nothing_of_a_broken_target():
    def judged(target, *findings, known=(), error=""):
        diagnosis = Diagnosis(findings=findings, not_judged=(), steps=1, sites=1)
        return Judged(target=target, diagnosis=diagnosis, known=known, error=error, gains={"fc": 1.0})

    one = judged("a", finding(module="x", alike=("x", "y")), known=(finding(module="z"),))
    baseline = baseline_of([one, judged("b", finding(module="x"), error="broken")])
    assert {(i.target, i.module) for i in baseline.findings} == {("a", "x"), ("a", "y"), ("a", "z")}
    assert baseline.profiles == {"a": {"fc": 1.0}}


SPOILT = {
    "no JSON": ("{", "is no JSON"),
    "a merge conflict": ("{\n<<<<<<< HEAD\n=======\n>>>>>>> b\n}", "marks of a merge conflict; keep the lines of both"),
    "another file": ('{"name": "x"}', "it has none"),
    "a list": ("[]", "it has none"),
    "of later": ('{"schema": "gradscope/baseline/9"}', "'gradscope/baseline/9'"),
    "a key lacks": ('{"schema": "gradscope/baseline/1", "findings": []}', "damaged.*profiles"),
    "a number as a module": (
        '{"schema": "gradscope/baseline/1", "findings": [{"target": "a", "rule": "b", "module": 1}], "profiles": {}}',
        "1 must be a string",
    ),
    "an infinite gain": (
        '{"schema": "gradscope/baseline/1", "findings": [], "profiles": {"a": {"b": Infinity}}}',
        "must be finite",
    ),
    "profiles in a list": ('{"schema": "gradscope/baseline/1", "findings": [], "profiles": []}', "must be a list and"),
    "a profile that is none": ('{"schema": "gradscope/baseline/1", "findings": [], "profiles": {"a": 1}}', "damaged"),
}


@pytest.mark.parametrize(("text", "said"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_file_is_told_with_the_way_out(tmp_path: Path, text, said):
    file = tmp_path / "known.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read_baseline(file)
    assert "known.json" in str(caught.value)
    assert "--write-baseline" in str(caught.value)


def test_what_is_about_to_be_written_anew_is_a_baseline_or_nothing(tmp_path: Path):
    file = tmp_path / "known.json"
    assert baseline_before(file) == Baseline()
    of_test, of_target = Identity("t.py::a[x]#2", "GS301", "x"), Identity("encoder", "GS301", "x")
    whole = Baseline(findings=frozenset({of_test, of_target}), profiles={"encoder": {"x": 1.0}, "t.py::b": {"x": 2.0}})
    write_baseline(whole, file)
    assert baseline_before(file) == whole
    assert whole.targets == {"t.py::a[x]#2", "t.py::b", "encoder"}
    assert whole.of_tests() == Baseline(findings=frozenset({of_test}), profiles={"t.py::b": {"x": 2.0}})
    file.write_text("{}")
    with pytest.raises(UsageError, match="it has none; delete it, or name another file"):
        baseline_before(file)
    with pytest.raises(UsageError, match="is no file, and a device cannot be replaced"):
        baseline_before(Path(os.devnull))


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path: Path):
    with pytest.raises(UsageError, match="does not exist; `gradscope check --write-baseline"):
        read_baseline(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_baseline(tmp_path)
    with pytest.raises(UsageError, match="cannot be written"):
        write_baseline(Baseline(), tmp_path / "no" / "where.json")
    assert not list(tmp_path.iterdir())

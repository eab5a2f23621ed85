"""`--gradscope-write-baseline`: known findings fail no test, new ones do."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradscope.baseline import Baseline, read_baseline, write_baseline
from gradscope.integrations.pytest_baseline import BaselineWriter
from gradscope.verdict import Identity

TESTS = """
import pytest
import torch
from torch import nn

def batch():
    x = torch.randn(16, 4)
    return x, (x[:, 0] > 0).long()

def net(*dead):
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)]
    for index in dead:
        nn.init.constant_(layers[index].bias, -10.0)
    return nn.Sequential(*layers)

@pytest.mark.xdist_group("nets")
def test_old(gradscope):
    gradscope.assert_healthy(net({dead}), batch=batch, loss=nn.functional.cross_entropy, steps=6)

def test_other(gradscope):
    gradscope.assert_healthy(net(), batch=batch, loss=nn.functional.cross_entropy, steps=6)
"""


def report(test: str, *told: dict[str, object]) -> SimpleNamespace:
    return SimpleNamespace(nodeid=test, when="teardown", gradscope=list(told))


def passed(test: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid=test, when="call", passed=True)


def told(target: str, *found: tuple[str, str], **gains: float) -> dict[str, object]:
    return {"target": target, "found": list(found), "gains": gains}


def written(writer: BaselineWriter) -> list[str]:
    lines: list[str] = []
    writer.pytest_sessionfinish()
    writer.pytest_terminal_summary(SimpleNamespace(write_line=lines.append))
    return lines


def test_what_the_tests_found_replaces_what_was_known_of_them(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    before = {
        ("t.py::a", "GS301", "x"),
        ("t.py::a#2", "GS301", "y"),
        ("t.py::b", "GS101", "z"),
        ("t.py::b[#1]", "GS1", "z"),
    }
    profiles = {"t.py::a": {"x": 0.5}, "t.py::b": {"z": 1.0}}
    write_baseline(Baseline(findings=frozenset(Identity(*one) for one in before), profiles=profiles), path)
    writer = BaselineWriter(path)
    writer.pytest_runtest_logreport(passed("t.py::a"))
    writer.pytest_runtest_logreport(report("t.py::a", told("t.py::a", ("GS302", "x"), x=0.25), told("t.py::a#2")))
    assert written(writer) == [f"gradscope: 3 findings known in {path}"]
    now = read_baseline(path)
    assert now.findings == {("t.py::a", "GS302", "x"), ("t.py::b", "GS101", "z"), ("t.py::b[#1]", "GS1", "z")}
    assert now.profiles == {"t.py::a": {"x": 0.25}, "t.py::b": {"z": 1.0}}


def test_a_test_that_did_not_come_to_its_models_keeps_what_was_known_of_them(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    before = {("t.py::skipped", "GS301", "x"), ("t.py::fails", "GS301", "y"), ("t.py::fails#2", "GS301", "z")}
    before |= {("t.py::passes", "GS301", "x"), ("t.py::grouped#2", "GS301", "x"), ("encoder", "GS301", "x")}
    write_baseline(Baseline(findings=frozenset(Identity(*one) for one in before)), path)
    writer = BaselineWriter(path)
    for one in (
        report("t.py::skipped"),
        SimpleNamespace(nodeid="t.py::fails", when="call", passed=False),
        report("t.py::fails", told("t.py::fails")),
        passed("t.py::passes"),  # and judges nothing any more
        report("t.py::passes"),
        passed("t.py::grouped@gpu"),
        report("t.py::grouped@gpu", told("t.py::grouped")),
    ):
        writer.pytest_runtest_logreport(one)
    written(writer)
    kept = {("t.py::skipped", "GS301", "x"), ("t.py::fails#2", "GS301", "z"), ("encoder", "GS301", "x")}
    assert read_baseline(path).findings == kept


def test_a_file_that_is_no_baseline_is_said_at_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text("[]")
    with pytest.raises(pytest.UsageError, match="no baseline"):
        BaselineWriter(path)
    assert path.read_text() == "[]"


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match="cannot be written: there is no such folder"):
        BaselineWriter(tmp_path / "no" / "known.json")
    writer = BaselineWriter(tmp_path / "new.json")
    (tmp_path / "new.json").mkdir()
    with pytest.raises(pytest.UsageError, match="cannot be written"):
        writer.pytest_sessionfinish()


@pytest.mark.slow
def test_known_findings_pass_and_a_new_one_fails(run_pytest, tmp_path: Path) -> None:
    test = tmp_path / "test_nets.py"
    test.write_text(TESTS.replace("{dead}", "2"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    writing = run_pytest(
        tmp_path, "--gradscope-write-baseline=known.json", "-p", "xdist", "-n", "1", "--dist=loadgroup"
    )
    assert writing.returncode == 0, writing.stdout
    assert f"findings known in {tmp_path / 'known.json'}" in writing.stdout
    document = json.loads((tmp_path / "known.json").read_text())
    assert {"target": "test_nets.py::test_old", "rule": "GS301", "module": "3"} in document["findings"]
    assert "test_nets.py::test_other" in document["profiles"]

    (tmp_path / "pytest.ini").write_text("[pytest]\ngradscope_baseline = known.json\n")
    test.write_text(TESTS.replace("{dead}", "0, 2"))
    now = run_pytest(tmp_path, "-p", "xdist")  # where it has no group
    assert now.returncode == 1
    assert "error GS301 dead-units  1" in now.stdout  # the first ReLU is new; the second is known
    assert "1 failed, 1 passed" in now.stdout

    test.write_text(TESTS.replace("{dead}", ""))
    mended = run_pytest(tmp_path)
    assert mended.returncode == 0
    number = sum(one["target"] == "test_nets.py::test_old" for one in document["findings"])
    assert f"  {number} findings of the baseline are gone (" in mended.stdout
    assert "GS301 3); --gradscope-write-baseline lets it shrink" in mended.stdout

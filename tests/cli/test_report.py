import json
import re

import numpy as np
import pytest
from builders import trace_of
from examples import finding, network

from gradscope.findings import Severity
from gradscope.rules.base import Rule
from gradscope.trace import TraceBuilder


def rule_that_finds(*found):
    class Finds(Rule):
        """Finds what it is told."""

        code, name, reads = "GS901", "finds", frozenset()

        def check(self, trace):
            yield from found

    return Finds


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "run.h5"
    network(0.25).save(path)
    return path


def test_a_healthy_trace_is_exit_0(cli, recorded, installed):
    installed(rules=(rule_that_finds(),))
    outcome = cli("report", recorded)
    assert outcome.code == 0
    assert "healthy" in outcome.out
    assert "Gradient ∂L/∂y by depth" in outcome.out
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("severity", "fail_on", "code"),
    [
        (Severity.ERROR, None, 1),
        (Severity.WARNING, None, 0),
        (Severity.WARNING, "warning", 1),
        (Severity.INFO, "warning", 0),
        (Severity.INFO, "info", 1),
        (Severity.ERROR, "never", 0),
    ],
)
def test_exit_code_follows_fail_on(cli, recorded, installed, severity, fail_on, code):
    installed(rules=(rule_that_finds(finding(severity=severity)),))
    assert cli("report", recorded, *(["--fail-on", fail_on] if fail_on else [])).code == code


@pytest.mark.parametrize(("fail_on", "failures"), [("never", "0"), ("error", "1")])
def test_a_format_of_the_gate_says_what_the_gate_says_of_the_trace(cli, recorded, installed, fail_on, failures):
    installed(rules=(rule_that_finds(finding(code="GS901")),))
    shown = cli("report", recorded, "--format", "junit", "--fail-on", fail_on).out
    checked = cli("check", recorded, "--output-format", "junit", "--fail-on", fail_on).out
    without_time = [re.sub(' time="[^"]*"', "", text) for text in (shown, checked)]
    assert without_time[0] == without_time[1]
    assert f'failures="{failures}"' in shown


def test_json_on_stdout_is_one_document(cli, recorded, installed):
    installed(rules=(rule_that_finds(finding()),))
    outcome = cli("report", recorded, "--format", "json")
    document = json.loads(outcome.out)
    assert document["schema"] == "gradscope/diagnosis/1"
    assert document["ok"] is False
    assert (document["steps"], document["sites"]) == (10, 30)
    assert outcome.code == 1


def test_csv_on_stdout(cli, recorded):
    assert cli("report", recorded, "--format", "csv").out.startswith(
        "step,time,module,module_type,quantity,name,depth,"
    )


def test_the_suffix_of_the_file_tells_the_format(cli, recorded, tmp_path, installed):
    installed(rules=())
    outcome = cli("report", recorded, "-o", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["ok"] is True
    assert outcome.err == f"gradscope: wrote {tmp_path / 'out.json'}\n"
    assert outcome.out == ""


def test_figures_into_a_folder(cli, recorded, tmp_path, installed):
    installed(rules=())
    assert cli("report", recorded, "--format", "svg", "-o", tmp_path / "figures").code == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "gradient-by-depth.svg",
        "loss.svg",
        "heatmap.svg",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "png"], "`--format png` writes files; say where: `-o FOLDER` or `-o FILE.png`."),
        (["--format", "jsn"], "`--format jsn` is no report; did you mean 'json'?"),
    ],
)
def test_misuse_is_said_before_anything_is_read(cli, words, said):
    outcome = cli("report", "does-not-exist.h5", *words)
    assert (outcome.code, outcome.err) == (2, f"gradscope: {said}\n")


def test_a_missing_trace_is_quoted(cli):
    outcome = cli("report", "does-not-exist.h5")
    assert outcome.code == 2
    assert "does-not-exist.h5" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_file_that_is_no_trace_is_quoted(cli, tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no HDF5 at all")
    outcome = cli("report", tmp_path / "a.h5")
    assert outcome.code == 2
    assert str(tmp_path / "a.h5") in outcome.err
    assert outcome.err.count("\n") == 1


def test_nothing_recorded_is_never_healthy(cli, tmp_path):
    TraceBuilder().finish([], {}).save(tmp_path / "a.h5")
    outcome = cli("report", tmp_path / "a.h5")
    assert outcome.code == 2
    assert "holds no recorded step" in outcome.err
    TraceBuilder().finish(trace_of(output_rms=np.ones(2)).sites, {}).save(tmp_path / "b.h5")
    assert cli("report", tmp_path / "b.h5").code == 2


def test_the_trace_itself_is_never_overwritten(cli, recorded):
    before = recorded.read_bytes()
    outcome = cli("report", recorded, "-o", recorded)
    assert (outcome.code, recorded.read_bytes()) == (2, before)
    assert "is the trace itself" in outcome.err


@pytest.mark.parametrize(("form", "begins"), [("text", "━━ gradscope budget"), ("json", '{\n  "schema"')])
def test_a_view_takes_the_place_of_the_findings(cli, recorded, installed, form, begins):
    installed(rules=(rule_that_finds(finding(severity=Severity.ERROR)),))
    outcome = cli("report", recorded, "--view", "budget", "--format", form)
    assert outcome.code == 1  # what was found still decides
    assert outcome.out.startswith(begins)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--view", "budgit"], "`--view budgit` is none of"),
        (["--view", "budget", "--format", "junit"], "not as junit"),
        (["--view", "budget", "-o", "x.svg"], "not as svg"),
        (["--view", "theory", "--format", "svg"], "not as svg"),
        (["--view", "theory", "--format", "csv"], "not as csv"),
        (["--view", "budget", "--view", "theory"], "one at a time, not budget and theory"),
    ],
)
def test_a_view_that_there_is_not_is_misuse(cli, recorded, given, said):
    outcome = cli("report", recorded, *given)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1

import re
from io import StringIO

import pytest
from examples import SICK, diagnosis, finding, network
from verdicts import ENCODER, EVERYTHING, EXAMPLES, MANY, NOTHING, ODD, PASSED

from gradscope.reports.github import LARGEST_SUMMARY, SUMMARY, WORKSPACE, GitHub, command
from gradscope.reports.markdown import markdown
from gradscope.sources import Place
from gradscope.verdict import Judged, Verdict


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch):
    monkeypatch.delenv(SUMMARY, raising=False)
    monkeypatch.delenv(WORKSPACE, raising=False)


def commands(verdict):
    """What the runner makes of it: (command, properties, message), read as its documentation says."""
    stream = StringIO()
    assert GitHub().write_verdict(verdict, stream) == ()
    found = []
    for line in stream.getvalue().split("\n"):
        if match := re.fullmatch(r"::(\w+) ?(.*?)::(.*)", line, re.DOTALL):
            pairs = (pair.split("=", 1) for pair in match[2].split(",") if pair)
            found.append((match[1], {key: _unescaped(value) for key, value in pairs}, _unescaped(match[3])))
    return found


def _unescaped(text):
    for written, meant in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(written, meant)
    return text


def test_a_verdict_as_workflow_commands(assert_golden):
    stream = StringIO()
    GitHub().write_verdict(EVERYTHING, stream)
    assert_golden("verdict.github", stream.getvalue())


def test_each_finding_that_leads_is_an_annotation_at_its_line():
    found = commands(EVERYTHING)
    assert [name for name, _, _ in found] == ["error", "warning", "warning", "error"]
    _, properties, message = found[0]
    assert properties == {
        "file": "acme/models.py", "line": "14", "title": "GS101 vanishing-gradient: layers.3 of encoder",
    }  # fmt: skip
    assert message.startswith("each layer passes back 0.25")
    assert message.endswith("Hence 6 more findings: GS302 saturation.")


def test_strange_names_arrive_as_they_are():
    _, properties, message = commands(EVERYTHING)[2]
    assert properties == {"title": f"GS301 dead-units: {ODD} of decoder"}
    assert message.startswith(f"half of {ODD} is silent")


def test_a_broken_target_is_an_error():
    _, properties, message = commands(EVERYTHING)[3]
    assert properties == {"title": "gradscope: tagger could not be judged"}
    assert message.endswith("did you mean 'build'?")


def test_errors_come_first_where_only_ten_are_shown():
    mild = finding(severity=ENCODER.diagnosis.findings[-1].severity, module="a")
    verdict = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(mild, finding(module="b"))),))
    assert [name for name, _, _ in commands(verdict)] == ["error", "warning"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_log_says_how_it_ended(name):
    stream = StringIO()
    GitHub().write_verdict(EXAMPLES[name], stream)
    assert re.match("passed|failed|nothing was judged", stream.getvalue().splitlines()[-1])


@pytest.mark.parametrize("text", ["a%0Ab", "a\r\nb", "100%25", "a::b,c=d", "::error::x", ""])
def test_what_is_escaped_comes_back(text):
    line = command("error", text, title=text)
    assert "\n" not in line
    match = re.fullmatch(r"::error title=(.*?)::(.*)", line)
    assert (_unescaped(match[1]), _unescaped(match[2])) == (text, text)


def test_the_summary_is_appended_to_the_runner_s_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.md"
    path.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv(SUMMARY, str(path))
    assert GitHub().write_verdict(PASSED, tmp_path / "log.github") == (tmp_path / "log.github",)
    assert path.read_text(encoding="utf-8") == "before\n" + markdown(PASSED)


def test_a_summary_that_cannot_be_written_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(SUMMARY, str(tmp_path / "no" / "such"))
    assert commands(MANY)


def test_a_summary_is_no_longer_than_github_takes(tmp_path, monkeypatch):
    path = tmp_path / "summary.md"
    monkeypatch.setenv(SUMMARY, str(path))
    long = [finding(module=f"layers.{i}", message="word " * 200) for i in range(800)]
    GitHub().write_verdict(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(*long)),)), StringIO())
    text = path.read_text(encoding="utf-8")
    assert LARGEST_SUMMARY / 2 < len(text.encode()) <= LARGEST_SUMMARY + 100
    assert text.count("<details>") == text.count("</details>")
    assert text.endswith("too long for a summary; the log has it.\n")


def test_a_file_outside_of_the_project_is_named_from_the_runner_s_folder(monkeypatch):
    places = {"layers": Place(file="/home/runner/work/acme/other/m.py", line=2)}
    verdict = Verdict(targets=(Judged(target="a", diagnosis=diagnosis(finding()), places=places),))
    assert commands(verdict)[0][1]["file"] == "/home/runner/work/acme/other/m.py"
    monkeypatch.setenv(WORKSPACE, "/home/runner/work/acme")
    assert commands(verdict)[0][1]["file"] == "other/m.py"


def test_nothing_judged_is_said():
    assert commands(NOTHING) == []


def test_a_trace_alone(tmp_path):
    (path,) = GitHub().write(network(0.25), SICK, tmp_path)
    assert path.read_text(encoding="utf-8").startswith("::error title=GS101 vanishing-gradient%3A layers.3 of MLP::")

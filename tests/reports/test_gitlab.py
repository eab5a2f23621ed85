import json
from io import StringIO

import pytest
from examples import SICK, diagnosis, finding, network
from verdicts import ALIKE, EVERYTHING, EXAMPLES

from gradscope.reports.gitlab import GitLab
from gradscope.sources import Place
from gradscope.verdict import Identity, Judged, Verdict


def entries(verdict):
    stream = StringIO()
    assert GitLab().write_verdict(verdict, stream) == ()
    return json.loads(stream.getvalue())


def test_a_verdict_as_a_code_quality_report(assert_golden):
    assert_golden("verdict.gitlab", json.dumps(entries(EVERYTHING), indent=1, ensure_ascii=False))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_entry_has_what_gitlab_asks_for(name):
    found = entries(EXAMPLES[name])
    for entry in found:
        assert entry["description"]
        assert entry["check_name"]
        assert entry["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert not entry["location"]["path"].startswith(("/", "./"))
        assert entry["location"]["lines"]["begin"] >= 1
    prints = [entry["fingerprint"] for entry in found]
    assert len(set(prints)) == len(prints)


def test_what_counts_is_there_and_nothing_else():
    found = [(entry["check_name"], entry["severity"]) for entry in entries(EVERYTHING)]
    assert found == [
        ("GS101", "critical"), *[("GS302", "major")] * 6, ("GS501", "major"), ("GS301", "major"),
        ("not-judged", "blocker"),
    ]  # fmt: skip


def test_modules_that_are_sick_alike_have_an_entry_each():
    found = {entry["fingerprint"]: entry["location"] for entry in entries(ALIKE)}
    assert found[Identity("wide", "GS301", "b").fingerprint] == {"path": "m.py", "lines": {"begin": 2}}
    assert found[Identity("wide", "GS301", "c").fingerprint] == {"path": "pyproject.toml", "lines": {"begin": 1}}


def test_the_same_twice_is_one_entry():
    assert len(entries(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(finding(), finding())),)))) == 1


def test_a_file_outside_of_the_project_is_told_in_words():
    places = {"layers": Place(file="/opt/m.py", line=7)}
    (entry,) = entries(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(finding()), places=places),)))
    assert entry["location"] == {"path": "pyproject.toml", "lines": {"begin": 1}}
    assert entry["description"].endswith("(/opt/m.py:7)")


def test_a_trace_alone(tmp_path):
    (path,) = GitLab().write(network(0.25), SICK, tmp_path)
    assert len(json.loads(path.read_text(encoding="utf-8"))) == 7

import sys

import pytest
from examples import diagnosis, finding, printed
from verdicts import EVERYTHING, EXAMPLES, MANY, PASSED, WARNED

from gradscope.findings import Unjudged
from gradscope.reports.gate_text import VerdictView
from gradscope.reports.terminal import Terminal
from gradscope.verdict import Judged, Verdict


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["everything", "passed", "nothing"])
def test_a_verdict_at_a_terminal(assert_golden, name, width):
    assert_golden(f"verdict-{name}-{width}.txt", printed(VerdictView(EXAMPLES[name]), width=width))


def test_a_healthy_target_is_a_line():
    lines = printed(VerdictView(PASSED)).splitlines()
    assert sum(line.startswith("model-") for line in lines) == 10
    assert len(lines) <= 14


def test_colours_follow_the_verdict():
    styles = {
        str(span.style)
        for one in (EVERYTHING, PASSED)
        for part in _parts(one)
        if hasattr(part, "spans")
        for span in part.spans
    }
    assert {"bold red", "bold green", "bold yellow", "dim", "bold"} <= styles


def test_where_the_encoding_has_only_ascii():
    text = printed(VerdictView(Verdict(targets=EVERYTHING.targets[:1])), ascii_only=True)
    assert text.isascii()  # what is not ASCII is the user's: names of targets and modules
    assert "encoder  failed: 1 error, 1 warning" in text
    assert "error GS101 vanishing-gradient  layers.3" in text


def lacking(number, *findings):
    unjudged = [Unjudged(rule=f"r{i}", reason=f"needs {i}") for i in range(number)]
    unjudged.append(Unjudged(rule="recording", reason="a probe failed"))
    judged = Judged(target="a", diagnosis=diagnosis(*findings, not_judged=unjudged))
    return printed(VerdictView(Verdict(targets=(judged,))))


def test_where_all_is_well_a_line_names_what_was_not_judged_but_what_the_recording_lacks_is_told():
    text = lacking(9)
    assert "not judged r0, r1, r2, r3 and 5 more: --output-format json says why" in text
    assert "needs" not in text
    assert "recording: a probe failed" in text
    assert "r0: needs 0" in lacking(1)


def test_many_reasons_for_which_rules_could_not_judge_are_counted():
    text = lacking(8, finding())
    assert "r5: needs 5" in text
    assert "r6" not in text
    assert "not judged for 3 more reasons" in text


def test_hundreds_of_findings_are_all_there():
    text = printed(VerdictView(MANY))
    assert text.count("error GS101") == 300


def test_a_narrow_terminal_loses_no_word():
    assert "half of" in printed(VerdictView(Verdict(targets=(WARNED,))), width=30)


def test_a_file_has_no_colour(tmp_path):
    (path,) = Terminal().write_verdict(EVERYTHING, tmp_path / "gate.txt")
    text = path.read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert text.rstrip().splitlines()[-1].startswith("failed: 1 error in 1 of 4 targets")


def _parts(verdict):
    from rich.console import Console

    console = Console(width=80)
    return list(VerdictView(verdict).__rich_console__(console, console.options))


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(capsys):
    Terminal().write_verdict(EVERYTHING, sys.stdout)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in printed(VerdictView(EVERYTHING), width=80).splitlines()] == lines

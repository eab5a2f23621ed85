import re
from io import StringIO

import pytest
from examples import SICK, diagnosis, finding, network
from markdown_it import MarkdownIt
from verdicts import EVERYTHING, EXAMPLES, MANY, ODD, WARNED

from gradscope.reports.markdown import Markdown, code, escaped, fenced, markdown
from gradscope.verdict import Judged, Verdict

READER = MarkdownIt().enable("table")


def cells(text):
    """The rows of all tables as a reader sees them: the text of each cell."""
    rows = []
    for token in READER.parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children))
    return rows


def test_a_verdict_as_markdown(assert_golden):
    assert_golden("verdict.md", markdown(EVERYTHING))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_reader_sees_every_row_whole(name):
    verdict = EXAMPLES[name]
    text = markdown(verdict)
    assert text.count("<details>") == text.count("</details>")
    rows = cells(text)
    width = {4, 5}
    assert all(len(row) in width for row in rows)
    targets = [row[0] for row in rows if len(row) == 4]
    assert targets == (["target", *(one.target for one in verdict.targets)] if verdict.targets else [])


def test_strange_names_are_read_as_they_are():
    row = cells(markdown(Verdict(targets=(WARNED,))))[-1]
    seen = " ".join(re.sub(r"[\n\x00]", " ", ODD).split())
    assert row[2] == seen
    assert row[3] == f"half of {seen} is silent"


def test_the_whole_of_a_finding_is_folded_away():
    text = markdown(EVERYTHING)
    assert "<details><summary>GS101 vanishing-gradient at layers.3</summary>" in text
    blocks = [token.content for token in READER.parse(text) if token.type == "fence"]
    assert len(blocks) == 3
    assert "remedy use ReLU" in blocks[0]


def test_hundreds_of_findings_are_all_there():
    rows = [row for row in cells(markdown(MANY)) if len(row) == 5]
    assert len(rows) == 301


@pytest.mark.parametrize("text", ["a`b", "`", "``a`", "a|b", "a\\b", "a b"])
def test_code_is_read_as_it_was_written(text):
    assert cells(f"| a |\n| - |\n| {code(text)} |\n") == [["a"], [text]] or _inline(code(text)) == text


def _inline(text):
    return READER.parseInline(text)[0].children[0].content


@pytest.mark.parametrize("text", ["*a*", "_a_", "[a](b)", "<b>", "a | b", "`a`", "&lt;", "# a", "~~a~~", "a\\*"])
def test_text_means_nothing_to_markdown(text):
    (token,) = READER.parseInline(escaped(text))
    assert {child.type for child in token.children} <= {"text", "text_special"}
    assert "".join(child.content for child in token.children) == text


def test_nobody_is_notified():
    assert "@" not in escaped("@everyone")
    at = finding(module="@team", message="ask @team")
    outside = re.sub(
        r"(?s)```.*?```|`[^`]*`", "", markdown(Verdict(targets=(Judged(target="a", diagnosis=diagnosis(at)),)))
    )
    assert "@" not in outside


def test_a_block_holds_any_backticks():
    (token,) = READER.parse(fenced("```\na\n````"))
    assert token.content == "```\na\n````\n"


def test_a_trace_alone(tmp_path):
    (path,) = Markdown().write(network(0.25), SICK, tmp_path)
    assert path.name == "gradscope.md"
    stream = StringIO()
    assert Markdown().write(network(0.25), SICK, stream) == ()
    assert stream.getvalue() == path.read_text(encoding="utf-8")

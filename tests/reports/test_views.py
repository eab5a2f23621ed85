"""What `report --view` shows instead of the findings."""

import pytest
from examples import sigmoid_chain

from gradscope.errors import UsageError
from gradscope.reports.views import FINDINGS, VIEWS, view_of


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_file_is_text_or_json(view, tmp_path):
    (text,) = view.write(sigmoid_chain(), "text", tmp_path)
    (document,) = view.write(sigmoid_chain(), "json", tmp_path / "own.json")
    assert text == tmp_path / f"{view.name}.txt"
    assert text.read_text(encoding="utf-8").startswith("━━ gradscope")
    assert document.read_text(encoding="utf-8").startswith('{\n  "schema": "gradscope/')


def test_the_findings_are_no_view_of_their_own():
    assert view_of(FINDINGS, "csv") is None


def test_a_name_that_is_none_and_a_format_that_it_lacks_are_said():
    with pytest.raises(UsageError, match=r"`--view budgit` is none of findings, budget.*did you mean 'budget'\?"):
        view_of("budgit", "text")
    with pytest.raises(UsageError, match="written as text or json, not as junit"):
        view_of("budget", "junit")

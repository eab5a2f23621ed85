"""The page of a difference says what the terminal says."""

import json
import re
from dataclasses import replace

from builders import trace_of
from differences import ODD, everything, nothing, recorded
from examples import finding

from gradscope.difference import difference
from gradscope.reports.difference_page import MOST_ROWS, difference_page


def visible(page):
    return re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page, flags=re.S)


def test_it_holds_findings_layers_and_modules():
    shown = " ".join(visible(difference_page(everything())).split())
    for said in (
        "main.h5", "branch.h5", "Appeared in B", "GS301 dead-units net.act", "hence GS103 at 1 place",
        "Vanished from A", "B has no such module", "Moved", "at net.head, in A at fc", "Changed severity",
        "a warning, in A an error", "share of dead units", "+80 points", "only in B: 1 module: extra",
        "modules of B lie under", "Gradient by depth",
    ):  # fmt: skip
        assert said in shown, said


def test_the_same_twice_has_no_findings_and_no_layers():
    shown = visible(difference_page(nothing()))
    assert "Both runs have the same findings." in shown
    assert "No layer changed markedly." in shown


def test_what_stands_between_backticks_is_code():
    trace = trace_of(steps=5, modules=["fc"], output_rms=[1.0])
    said = replace(finding(module="fc"), message="`loss.backward()` was called twice.")
    page = difference_page(difference(recorded("a", trace), recorded("b", trace, said)))
    assert "<p><code>loss.backward()</code> was called twice.</p>" in page


def test_names_are_text():
    page = difference_page(everything(ODD))
    assert "<img" not in page
    assert "&lt;img src=x" in page


def test_runs_without_gradients_have_no_figure():
    trace = trace_of(steps=5, modules=["fc"], output_rms=[1.0])
    page = difference_page(difference(recorded("a", trace), recorded("b", trace, finding(module="fc"))))
    assert "data-figure" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.S)
    assert len(page) < 30_000


def test_many_layers_are_folded():
    found = everything()
    change = next(change for change in found.changes if change.measure.value == "gain")
    compared = replace(found.compared, changes=(change,) * (MOST_ROWS + 2))
    page = difference_page(replace(found, compared=compared))
    assert "<summary>2 more</summary>" in page
    assert page.count("×0.05") == MOST_ROWS + 2


def test_the_figure_is_in_the_page():
    page = difference_page(everything())
    (drawn,) = re.findall(r'id="figure-gradient-of-both">(.*?)</script>', page, flags=re.S)
    assert json.loads(drawn)["root_id"]

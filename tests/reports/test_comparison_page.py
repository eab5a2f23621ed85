"""The page says what the terminal says."""

import re
from dataclasses import replace

import numpy as np
from builders import trace_of
from examples import HEALTHY, SICK, comparison, variant

from gradscope.exhibits import Exhibit
from gradscope.reports.comparison_page import comparison_page


def visible(page):
    return " ".join(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page, flags=re.S).split())


def test_it_holds_question_outcome_lesson_numbers_findings_and_source():
    shown = visible(comparison_page(comparison()))
    for said in (
        "Does a saturating activation starve the early layers of gradient?", "✓ came out as expected",
        "must show GS101 vanishing-gradient", "✓ GS101 vanishing-gradient", "✓ no finding", "Fifteen layers that each",
        "gain per layer", "0.250", "2.3→0.089", "Gradient ∂L/∂y by depth", "error GS101", "remedy", "Hence GS302.",
        "no finding tanh · relu, He init", "Glorot &amp; Bengio 2010, §3.1",
        "symmetric-init: the trace holds no weight",
    ):  # fmt: skip
        assert said in shown, said


def test_what_is_not_as_expected_is_said_in_words():
    made = comparison(
        variants=(
            variant("healed", 0.9, HEALTHY, expect=frozenset({"GS101"})),
            variant("ill", 0.25, SICK, forbid=frozenset({"GS101"})),
        )
    )
    shown = visible(comparison_page(made))
    assert "✗ did not come out as expected" in shown
    assert "✗ no GS101 vanishing-gradient ✗ not as expected" in shown
    assert "✗ GS101 vanishing-gradient: must not show" in shown
    assert "What it shows where it comes out as expected:" in shown


def test_several_seeds_are_counted_and_ranges_told():
    shown = visible(comparison_page(comparison(seeds=3)))
    assert "✓ as expected 3 of 3 seeds" in shown
    assert "0.250…0.255" in shown
    assert "Median and range of 3 seeds." in shown


def test_names_are_text():
    odd = "</script><img src=x onerror=alert(1)>"
    page = comparison_page(comparison(variants=(variant(odd, 0.25, SICK),)))
    assert "<img" not in page
    assert "&lt;img src=x" in page


def test_exact_numbers_have_their_tables():
    table = Exhibit(title="Back", heads=("t", "local"), rows=(("0", (0.25, -1 / 3)),), note="of t alone")
    one = variant("rnn", 0.9, HEALTHY)
    one = replace(one, runs=(replace(one.runs[0], exhibits=(table,)),))
    shown = visible(comparison_page(comparison(variants=(one,))))
    assert "Number by number" in shown
    assert "Back rnn t local 0 0.2500 −0.3333 of t alone" in shown


def test_many_numbers_stand_in_tables_under_each_other():
    one = variant("a", 0.9, HEALTHY)
    one = replace(one, runs=(replace(one.runs[0], metrics={f"m{i}": 1.0 for i in range(9)}),))
    page = comparison_page(comparison(variants=(one,)))
    assert page.count('<table class="numbers">') == 2


def test_nothing_recorded_is_a_page_without_figures():
    one = variant("a", 0.9, HEALTHY)
    one = replace(one, runs=(replace(one.runs[0], trace=trace_of(weight_rms=[1.0]), loss_last=np.nan),))
    page = comparison_page(comparison(variants=(one,)))
    assert "data-figure=" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.S)
    assert "2.3→nan" in page

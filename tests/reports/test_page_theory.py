"""Theory beside measurement on a page."""

import math

from examples import HEALTHY, network

from gradscope.expected import Expectation, Piece
from gradscope.kinds import Kind
from gradscope.reports import page_theory
from gradscope.reports.page_theory import theory_section
from gradscope.reports.theory_text import Theory
from gradscope.terms import Term


def layer(name, predicted, measured):
    term = Term(module=name, module_type="Linear", kind=Kind.WEIGHTS, decades=0.0, per_step=None)
    return Expectation(module=name, pieces=(Piece(term=term, predicted=predicted, measured=measured),))


def section(monkeypatch, *layers):
    monkeypatch.setattr(page_theory, "theory_of", lambda trace: Theory(found=layers, headline="said"))
    return theory_section(network(0.9), HEALTHY)


def test_a_line_for_each_layer_and_a_figure_of_those_that_can_be_compared(monkeypatch):
    made = section(
        monkeypatch, layer("c", 1.0, 1.1), layer("b", 1.0, 2.0), layer("?", math.nan, 1.0), layer("a", 0.5, 0.5)
    )
    assert [one.cells[0] for one in made.context["layers"]] == ["c", "b", "?", "a"]
    assert [one.agrees for one in made.context["layers"]] == [True, False, True, True]
    (source,) = {r.data_source for r in made.figures["theory"].renderers}
    assert source.data["name"] == ["a", "b", "c"]
    assert source.data["layer"] == [1, 3, 4]  # the second has no theory
    assert source.data["measured"] == [0.5, 2.0, 1.1]


def test_two_layers_are_worth_no_figure(monkeypatch):
    made = section(monkeypatch, layer("b", 1.0, 1.0), layer("a", 1.0, 1.0))
    assert made.figures == {}
    assert not made.context["drawn"]


def test_without_a_theory_the_section_says_why():
    made = theory_section(network(0.9), HEALTHY)
    assert made.context["reason"].startswith("no budget: ")
    assert made.figures == {}

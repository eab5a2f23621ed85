"""Lines of a budget: names of functions, loops, what a branch may add."""

import numpy as np
import pytest
from builders import trace_of

from gradscope.flow import Vertex
from gradscope.kinds import Kind
from gradscope.links import ROWS, Side
from gradscope.terms import Terms
from gradscope.way_back import Leg

TRACE = trace_of(
    steps=3,
    modules=["blocks.0.a", "blocks.0.cell", "blocks.0.act"],
    types=["Linear", "GRUCell", "Sigmoid"],
    output_grad_l2_norm=[1, 1, 1],
)
TERMS = Terms(TRACE, np.array([0, 2]))


def leg(early, late, decades=(-1.0, -9.0, -3.0), **more):
    """Ends as "a?" for what a was given, "a" for what it returned, "a@2" in its third call."""

    def vertex(written):
        name, _, call = written.partition("@")
        side = Side.GIVEN if name.endswith("?") else Side.RETURNED
        return Vertex(f"blocks.0.{name.rstrip('?')}", int(call or 0), side)

    return Leg(early=vertex(early), late=vertex(late), decades=np.array(decades), **more)


def test_a_module_by_the_steps_that_count():
    (term,) = TERMS.of([leg("act?", "act")])
    assert (term.module, term.kind, term.bound) == ("blocks.0.act", Kind.ACTIVATION, 0.25)
    assert term.decades == pytest.approx(-2)
    assert term.gain == pytest.approx(0.01)


def test_functions_between_belong_to_what_holds_both_ends():
    (term,) = TERMS.of([leg("a", "act?", functions=("MulBackward0", "ViewBackward0", "MulBackward0"))])
    assert (term.module, term.module_type, term.kind) == ("blocks.0", "mul, view", Kind.OTHER)
    assert TERMS.of([leg("a", "act?", (0.0, 0.0, 0.0))]) == ()


def test_products_are_called_the_same_whatever_they_add_up():
    (term,) = TERMS.of([leg("a", "act?", functions=("MmBackward0", f"MmBackward0{ROWS}"))])
    assert term.module_type == "mm"


def test_calls_in_a_row_are_one():
    legs = [leg("cell?@1", "cell@1"), leg("cell", "cell?@1", functions=("MulBackward0",)), leg("cell?", "cell")]
    (term,) = TERMS.of(legs)
    assert term.calls == 2
    assert term.decades == pytest.approx(-6)
    assert [one.module for one in TERMS.of([leg("act?", "act"), leg("a?", "a")])] == ["blocks.0.act", "blocks.0.a"]


@pytest.mark.parametrize(
    ("functions", "ratio", "about"),
    [
        (("AddBackward0",), 2, "the skip hands back 1 of what arrives, so the branch 1 at least and 3 at most"),
        (("AddBackward0",), 0.25, "the skip hands back 1 of what arrives, so the branch 0.75 at least and 1.2 at most"),
        (("AddBackward0",), 1.05, ""),  # between 0.05 and 2.05: the norms say nothing
        (("MulBackward0",), 2, ""),
    ],
)
def test_by_a_sum_the_skip_hands_back_what_arrives(functions, ratio, about):
    inside = (leg("act?", "act"), leg("a?", "a", whole=False))
    split = leg(
        "a?", "act", np.log10([ratio] * 3), functions=functions, skipped=True,
        branches=(inside,), modules=(("blocks.0.a", "blocks.0.act"),),
    )  # fmt: skip
    (term,) = TERMS.of([split])
    assert term.kind is Kind.SKIP
    assert term.about == about
    (branch,) = term.within
    assert [one.module for one in branch.within] == ["blocks.0.act"]  # of the first only what it returns is known
    assert not branch.exact


def test_branches_without_a_module_of_their_own_measure_are_not_known():
    split = leg("a?", "act", branches=((), ()), modules=(("blocks.0.a",), ("blocks.0.act",)))
    (term,) = TERMS.of([split])
    assert term.kind is Kind.BRANCHES
    assert [np.isnan(branch.decades) for branch in term.within] == [True, True]

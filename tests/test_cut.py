"""Cuts as a trace holds them, and which of them explains that modules get nothing."""

import json

import pytest

from gradscope.cut import Cut, cuts, narrowest


def cut(*modules, line=1):
    return Cut(function="detach", file="acme/models.py", line=line, modules=frozenset(modules))


def test_what_is_written_is_read_again():
    found = (cut("b", "a"), cut("", line=7))
    meta = json.loads(json.dumps({"cuts": [one.to_dict() for one in found]}))
    assert cuts(meta) == found
    assert str(found[1]) == "`detach` at acme/models.py:7"


@pytest.mark.parametrize("meta", [{}, {"cuts": None}, {"cuts": ["x"]}, {"cuts": [{"modules": 3}]}])
def test_a_trace_of_before_has_none(meta):
    assert cuts(meta) == ()


def test_the_cut_that_takes_out_the_least_beside_them_explains_them():
    wide, close, other = cut("a", "b", "c"), cut("a", "b"), cut("a")
    assert narrowest([wide, close, other], ["a", "b"]) is close
    assert narrowest([wide, close, other], ["a"]) is other
    assert narrowest([close, other], ["c"]) is None

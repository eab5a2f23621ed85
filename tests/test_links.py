"""Links as a trace holds them."""

import json

import pytest

from gradscope.links import INPUT, ROWS, End, Link, Links, Side, adds_up_rows


def test_what_is_written_is_read_again():
    links = Links()
    first = Link(End(INPUT, Side.RETURNED), End("a", Side.GIVEN))
    second = Link(End("a", Side.RETURNED, "1.0"), End("b", Side.GIVEN, "x"), ("AddBackward0",))
    links.add(first, 0, 0)
    links.add(second, 0, 1)
    links.add(second, 0, 1)
    links.add(second, 1, 0)
    read = Links.of(json.loads(json.dumps({"flow": links.to_list()})))
    assert list(read) == [(first, (0, 0)), (second, (0, 1)), (second, (1, 0))]
    assert read


@pytest.mark.parametrize("meta", [{}, {"flow": None}, {"flow": ["x"]}, {"flow": [{"from": 3}]}, {"flow": [{"to": []}]}])
def test_a_trace_of_before_has_none(meta):
    assert not Links.of(meta)


def test_functions_that_add_up_rows_are_told_by_their_names():
    names = ["MmBackward0", f"MmBackward0{ROWS}", "IndexAddBackward0", "SparseAddmmBackward0", "AddBackward0"]
    assert [adds_up_rows(name) for name in names] == [False, True, True, True, False]

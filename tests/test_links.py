"""Links as a trace holds them."""

import json

import pytest

from gradscope.links import INPUT, End, Link, Links, Side


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

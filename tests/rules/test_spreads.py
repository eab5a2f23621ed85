import numpy as np
from builders import trace_of

from gradscope.links import INPUT, End, Link, Links, Side
from gradscope.rules.spreads import Walls


def walls(spread, *edges, given=None):
    links = Links()
    for one, other in edges:
        links.add(Link(End(one, Side.RETURNED), End(other, Side.GIVEN)), 0, 0)
    more = {} if given is None else {"input_sample_spread": [given]}
    modules = [str(i) for i in range(len(spread))]
    trace = trace_of(output_sample_spread=spread, modules=modules, meta={"flow": links.to_list()}, **more)
    return {wall.site.module: wall for wall in Walls(trace).found}


def test_without_the_flow_a_module_is_given_what_ran_before_it():
    found = walls([0.5, 0.25, 0.125])
    assert list(found) == ["1", "2"]
    assert [float(found[m].given[0]) for m in found] == [0.5, 0.25]


def test_with_it_it_is_given_what_feeds_it_the_widest_counts():
    found = walls([0.5, 0.25, 0.125], (INPUT, "0"), (INPUT, "1"), ("0", "2"), ("1", "2"))
    assert list(found) == ["2"]
    assert float(found["2"].given[0]) == 0.5
    assert found["2"].feeders == (0, 1)


def test_what_was_not_measured_is_left_out():
    found = walls([0.5, np.nan, 0.125])
    assert list(found) == ["2"]

"""The legs of the gradient's way back, on a trace that is written by hand."""

import numpy as np
import pytest
from builders import links, trace_of
from test_flow import RESIDUAL, SHARED

from gradscope.way_back import way_back


def trace(edges, returned, given=None, *, modules):
    """Norms of the gradients at each of `modules`, of what it returns and of what it was given."""
    return trace_of(
        steps=2,
        modules=modules,
        output_grad_l2_norm=np.array(returned, dtype=float),
        input_grad_l2_norm=np.array(given, dtype=float),
        meta={"flow": links(*edges).to_list()},
    )


def test_a_chain_has_a_leg_for_each_module():
    legs = way_back(
        trace([("in", "a"), ("a", "b"), ("b", "out")], [10.0, 100.0], [np.nan, 10.0], modules=["a", "b"])
    ).legs
    inner = [leg for leg in legs if leg.is_module]
    assert [leg.late.module for leg in inner] == ["b"]
    assert inner[0].decades == pytest.approx([-1.0, -1.0])
    assert sum(leg.decades[0] for leg in legs) == pytest.approx(-1.0)
    assert all(leg.whole for leg in legs)


def test_branches_lie_beside_the_way():
    modules = ["stem", "norm", "fc", "head"]
    legs = way_back(trace(RESIDUAL, [4.0, 2.0, 1.0, 8.0], [np.nan, 4.0, 2.0, 1.0], modules=modules)).legs
    assert sum(leg.decades[0] for leg in legs) == pytest.approx(np.log10(4 / 8))
    (split,) = [leg for leg in legs if leg.skipped]
    assert split.modules == (("norm", "fc"),)
    (branch,) = split.branches
    assert [leg.late.module for leg in branch if leg.is_module] == ["fc"]


def test_a_module_in_two_places_without_a_row_for_each_is_known_as_a_whole():
    modules = ["conv", "relu", "conv2", "head"]
    legs = way_back(trace(SHARED, [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 3.0], modules=modules)).legs
    assert sum(leg.decades[0] for leg in legs) == pytest.approx(np.log10(1 / 4))


def test_without_a_graph_there_is_no_way():
    assert way_back(trace_of(output_grad_l2_norm=[1.0, 2.0])).legs == ()


def test_of_several_experts_it_is_the_way_on_which_the_gradient_changes_most():
    edges = [("in", "norm"), ("norm", "a"), ("norm", "b"), ("a", "out"), ("b", "out")]
    way = way_back(trace(edges, [8.0, 2.0, 4.0], [np.nan, 8.0, 8.0], modules=["norm", "a", "b"]))
    assert [leg.late.module for leg in way.legs if leg.is_module] == ["a"]
    assert [legs[0].late.module for legs in way.others] == ["b"]
    assert sum(leg.decades[0] for leg in way.legs) == pytest.approx(np.log10(4))

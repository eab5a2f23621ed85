"""Rows and features in matrix products, by the graph that autograd makes of them."""

import pytest
import torch
from torch import nn

from gradscope.links import ROWS
from gradscope.probes.products import name_of

ADJACENCY = torch.rand(6, 6)
WEIGHT = nn.Parameter(torch.rand(4, 4))
MIXER = nn.Parameter(torch.rand(6, 6))
ROWS_ADDED = {
    "nodes of a graph": lambda x: ADJACENCY @ x,
    "graphs in a batch": lambda x: ADJACENCY @ x.expand(3, 6, 4),
    "each graph with its own": lambda x: ADJACENCY.expand(3, 6, 6) @ x.expand(3, 6, 4),
    "attention": lambda x: ((x @ WEIGHT) @ x.mT).softmax(-1) @ x,
    "attention in heads": lambda x: ADJACENCY.expand(2, 6, 6) @ x.view(6, 2, 2).transpose(0, 1),
    "transposed twice": lambda x: (x.T @ ADJACENCY).T,
    "with a bias": lambda x: torch.addmm(torch.zeros(4), ADJACENCY, x),
    "in batches with a bias": lambda x: torch.baddbmm(torch.zeros(1), ADJACENCY.expand(3, 6, 6), x.expand(3, 6, 4)),
}
FEATURES_ADDED = {
    "a parameter": lambda x: x @ WEIGHT,
    "a constant": lambda x: x @ torch.ones(4, 5),
    "tokens": lambda x: x.expand(3, 6, 4) @ WEIGHT,
    "a parameter on the left": lambda x: (WEIGHT @ x.T).T,
    "a constant on the left": lambda x: (torch.ones(4, 4) @ x.T).T,
    "a parameter that is cast": lambda x: WEIGHT.double().float() @ x.T,
    "einsum": lambda x: torch.einsum("nf,fg->ng", x, WEIGHT),
    "einsum the other way": lambda x: torch.einsum("fg,nf->ng", WEIGHT, x),
    "a layer": lambda x: nn.functional.linear(x, WEIGHT, torch.zeros(4)),
    "rows that are learned": lambda x: MIXER @ x,
    "no product": lambda x: x * 2,
}


def names(function):
    """Those of all nodes that lead from what `function` returns to what it was given."""
    given = torch.rand(6, 4, requires_grad=True) * 1
    found, waiting = [], [function(given).grad_fn]
    while waiting:
        node = waiting.pop()
        for place, (following, _) in enumerate(node.next_functions):
            if following is not None and leads_to(following, given.grad_fn):
                found.append(name_of(node, place))
                waiting += [following] if following is not given.grad_fn else []
    return found


def leads_to(node, wanted):
    return node is wanted or any(leads_to(following, wanted) for following, _ in node.next_functions if following)


@pytest.mark.parametrize("name", ROWS_ADDED)
def test_a_matrix_on_the_left_adds_up_rows(name):
    assert any(found.endswith(ROWS) for found in names(ROWS_ADDED[name]))


@pytest.mark.parametrize("name", FEATURES_ADDED)
def test_a_weight_does_not(name):
    found = names(FEATURES_ADDED[name])
    assert found
    assert not any(one.endswith(ROWS) for one in found)

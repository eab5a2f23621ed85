import numpy as np

from gradscope.records import Quantity, Site
from gradscope.rules.persistence import Persistence
from gradscope.rules.stuck import MOST, Stuck, and_others, gathered


def stuck(depth, first=0):
    lasting = Persistence(first=first, last=9, share=1.0, standing=True, rows=np.arange(first, 10))
    site = Site(module=f"relu{depth}", module_type="ReLU", quantity=Quantity.OUTPUT, depth=depth)
    return Stuck(site=site, lasting=lasting, share=np.ones(10), bar=0.7)


def test_neighbours_are_one_finding_named_after_the_earliest():
    ((named, group),) = gathered([None, stuck(2, first=4), stuck(3, first=1), stuck(4, first=1), None])
    assert named.site.module == "relu3"
    assert [site.module for site in group] == ["relu2", "relu3", "relu4"]


def test_layers_with_healthy_ones_between_stay_apart():
    assert [named.site.depth for named, _ in gathered([stuck(1), None, stuck(3)])] == [1, 3]


def test_many_groups_are_one_story():
    spread = [s for depth in range(MOST + 1) for s in (stuck(2 * depth), None)]
    ((_, group),) = gathered(spread)
    assert len(group) == MOST + 1


def test_the_rest_of_a_group_is_counted():
    sites = [stuck(i).site for i in range(3)]
    assert and_others(sites) == "; 2 more activations are much the same"
    assert and_others(sites[:2]) == "; 1 more activation is much the same"
    assert and_others(sites[:1]) == ""

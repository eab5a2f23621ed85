"""Sites keep their index; depth is the order of the first run."""

from gradscope.records import Quantity
from gradscope.site_table import SiteTable


def test_a_site_keeps_the_index_that_it_was_given_first():
    table = SiteTable({"a": "Linear"})
    assert [table.index("a", Quantity.OUTPUT), table.index("a", Quantity.WEIGHT, "weight")] == [0, 1]
    assert table.index("a", Quantity.OUTPUT) == 0
    assert len(table) == 2
    assert [site.module_type for site in table.sites] == ["Linear", "Linear"]


def test_depth_is_the_order_in_which_modules_ran_first():
    table = SiteTable({})
    for name in ("a", "b", ""):
        table.index(name, Quantity.OUTPUT)
    table.index("", Quantity.INPUT)
    assert [site.depth for site in table.sites] == [-1, -1, -1, 0]
    table.completed("b")
    table.completed("a", "Tanh")
    table.completed("b")
    assert [(site.module, site.depth) for site in table.sites] == [("a", 2), ("b", 1), ("", -1), ("", 0)]
    assert table.sites[0].module_type == "Tanh"


def test_a_module_that_ran_without_gradients_keeps_its_place():
    table = SiteTable({})
    for name in ("a", "b", "c"):
        table.index(name, Quantity.OUTPUT)
    table.completed("a")
    table.passed_by("b")
    table.completed("c")
    assert [site.depth for site in table.sites] == [1, -1, 3]
    table.completed("b")
    assert [site.depth for site in table.sites] == [1, 2, 3]


def test_totals_are_sites_once_there_are_gradients():
    table = SiteTable({})
    table.index("a", Quantity.OUTPUT)
    table.totals()
    assert len(table) == 1
    table.index("a", Quantity.WEIGHT_GRAD, "weight")
    assert table.totals() is table.totals()
    assert (table.sites[-1].module, table.sites[-1].quantity, table.sites[-1].name) == ("", Quantity.TOTAL_NORM, "raw")
    assert table.are(frozenset({Quantity.WEIGHT_GRAD})).tolist() == [False, True, False]

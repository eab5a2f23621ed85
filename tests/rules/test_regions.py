import pytest

from gradscope.rules.regions import common_prefix, regions, runs

OWNERS = ["stem", "blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.1.b", "head"]


@pytest.mark.parametrize(
    ("affected", "names"),
    [
        ({"blocks.0.a", "blocks.0.b"}, ["blocks.0"]),
        ({"blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.1.b"}, ["blocks"]),
        ({"stem", "blocks.0.a"}, ["blocks.0.a"]),
        ({"blocks.0.b"}, ["blocks.0.b"]),
        ({"stem", "head"}, ["stem", "head"]),
        (set(), []),
    ],
)
def test_neighbours_make_one_region_named_by_the_subtree_they_fill(affected, names):
    assert [region.module for region in regions(affected, OWNERS)] == names


def test_a_region_that_is_no_subtree_says_from_where_to_where():
    (region,) = regions({"stem", "blocks.0.a"}, OWNERS)
    assert str(region) == "stem to blocks.0.a"
    assert str(regions({"blocks.0.a", "blocks.0.b"}, OWNERS)[0]) == "blocks.0"


def test_names_share_whole_parts_only():
    assert common_prefix(["layer1.0", "layer10.0"]) == ""
    assert common_prefix(["a.b.c", "a.b.d"]) == "a.b"


def test_runs_have_no_gap():
    assert runs([True, True, False, True]) == [[0, 1], [3]]

"""The budget as a tree with bars."""

import pytest
from builders import chain, links, trace_of
from examples import HEALTHY, network, sigmoid_chain

from gradscope.budget import budget_of
from gradscope.reports.budget_text import Line
from gradscope.reports.page_budget import MOST_LINES, OPEN_LINES, budget_section, tree


def test_the_tree_is_nested_like_the_modules_and_adds_up():
    context = budget_section(sigmoid_chain(), HEALTHY).context
    head, blocks, *rest = context["modules"]
    assert (head.name, blocks.name, rest) == ("head", "blocks", [])
    assert [inner.name for inner in blocks.inside] == ["1", "0"]
    assert [leaf.name for leaf in blocks.inside[0].inside] == ["act", "fc"]
    assert context["sentence"] == budget_of(sigmoid_chain()).sentence
    assert context["one_way"]


def test_bars_are_shares_of_the_largest_and_part_by_direction():
    grown, lost, unknown = tree(
        [
            Line("a", 0, "", "", 1.0),
            Line("b", 0, "", "", -4.0),
            Line("c", 0, "", "", float("nan")),
        ]
    )
    assert (grown.width, grown.lost) == (25.0, False)
    assert (lost.width, lost.lost) == (100.0, True)
    assert (unknown.width, unknown.decades) == (0.0, "")


def test_all_bars_have_one_scale():
    inside, counted = tree([Line("t", 0, "", "", -20.0, counts=False), Line("a", 0, "", "", -2.0)])
    assert (inside.width, inside.decades) == (100.0, "(−20.00)")
    assert counted.width == 10.0


def test_a_large_tree_is_folded_and_a_huge_one_added_up():
    lines = [Line(f"{i}", i % 2, "", "", -1.0) for i in range(OPEN_LINES + 2)]
    assert [branch.open for branch in tree(lines)[0].inside] == [False]
    names = [f"l{i}" for i in range(2 * MOST_LINES)]
    norms = [0.999 ** (len(names) - i) for i in range(len(names))]
    trace = trace_of(
        steps=2,
        modules=names,
        output_grad_l2_norm=norms,
        input_grad_l2_norm=[float("nan"), *norms[:-1]],
        meta={"flow": links(*chain("in", *names, "out")).to_list()},
    )
    shown = budget_section(trace, HEALTHY).context["modules"]
    assert len(shown) == MOST_LINES
    assert float(shown[-1].decades.replace("−", "-")) == pytest.approx(-0.17, abs=0.02)


def test_without_a_budget_the_section_says_why():
    section = budget_section(network(0.9), HEALTHY)
    assert section.title == "Gradient budget"
    assert section.context["reason"].startswith("no budget: ")

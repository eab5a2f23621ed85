"""The budget at a terminal: nested, as wide as it is, honest about what belongs to no sum."""

import json

import pytest
from builders import chain, links, trace_of
from examples import printed, sigmoid_chain

from gradscope.budget import budget_of
from gradscope.reports.budget_text import MOST_LINES, BudgetView, budget_document, fitting


def residual_net():
    names = ["stem", "block.norm", "block.fc", "head"]
    edges = [*chain("in", *names, "out"), ("block.norm?", "head")]
    return trace_of(
        steps=4,
        modules=names,
        types=["Linear", "LayerNorm", "Linear", "Linear"],
        output_grad_l2_norm=[2.0, 0.3, 1.0, 4.0],
        input_grad_l2_norm=[float("nan"), 2.0, 0.3, 1.0],
        meta={"flow": links(*edges).to_list()},
    )


def deep_net(layers):
    names = [f"layers.{i}.fc" for i in range(layers)]
    norms = [0.9 ** (layers - i) for i in range(layers)]
    return trace_of(
        steps=2,
        modules=names,
        output_grad_l2_norm=norms,
        input_grad_l2_norm=[float("nan"), *norms[:-1]],
        meta={"flow": links(*chain("in", *names, "out")).to_list()},
    )


def test_containers_hold_the_sum_of_what_is_in_them():
    lines = printed(BudgetView(sigmoid_chain())).splitlines()
    blocks = next(line for line in lines if line.startswith("blocks"))
    assert "4 modules" in blocks
    assert "−2.60" in blocks
    assert any(line.startswith("  1") and "−1.00" in line for line in lines)
    assert any(line.startswith("    act") and "×0.25" in line and "−0.60" in line for line in lines)
    assert any(line.startswith("activation") and "−1.20" in line for line in lines)
    assert lines[0].endswith("−3.0 decades")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("trace", [sigmoid_chain(), residual_net()], ids=["plain", "residual"])
def test_no_line_is_wider_than_the_terminal_and_the_decades_always_stand(trace, width):
    shown = printed(BudgetView(trace), width=width)
    assert max(map(len, shown.splitlines())) <= width
    for term in budget_of(trace).terms:
        assert f"{abs(term.decades):.2f}" in shown


def test_what_belongs_to_no_sum_stands_in_brackets():
    shown = printed(BudgetView(residual_net()), width=100)
    assert "block: branch and skip" in shown
    assert "the skip hands back 1 of what arrives, so the branch 1 at least and 3 at most" in shown
    assert "(−0.52)" in shown  # fc: 0.3 of 1
    assert "part of no sum" in shown


def test_a_deep_net_is_added_up_until_it_fits():
    budget = budget_of(deep_net(200))
    lines = fitting(budget.terms)
    assert len(lines) <= MOST_LINES
    whole = sum(line.decades for line in lines if line.level == 0)
    assert whole == pytest.approx(budget.decades)
    assert "141 more" in lines[-1].name or len(lines) == MOST_LINES
    assert [line.level for line in fitting(budget_of(deep_net(20)).terms)] == [0, *[1] * 19]


def test_an_ascii_terminal_gets_ascii():
    shown = printed(BudgetView(residual_net()), ascii_only=True)
    assert "#" in shown
    assert not set(shown) & set("█▌░━")


def test_without_a_budget_it_says_why():
    trace = trace_of(output_grad_l2_norm=[1.0, 2.0])
    assert "tell which module" in printed(BudgetView(trace)).replace("\n", " ")
    assert budget_document(trace)["budget"] is None


def test_it_says_which_steps_count():
    shown = " ".join(printed(BudgetView(sigmoid_chain()), width=200).split())
    assert "mean over the middle half of the steps by their total, 2 of 4" in shown


def test_as_json():
    document = json.loads(json.dumps(budget_document(sigmoid_chain())))
    assert document["schema"] == "gradscope/budget/1"
    assert document["budget"]["decades"] == pytest.approx(-3)
    assert document["steps"] == [1, 2]

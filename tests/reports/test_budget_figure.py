import numpy as np
import pytest
from builders import chain, links, trace_of
from examples import network, recurrent, sigmoid_chain
from matplotlib.figure import Figure

from gradscope.budget import budget_of
from gradscope.errors import TraceError
from gradscope.reports.budget_figure import BESIDE, GROWS, MOST_BARS, SHRINKS, bars_of, budget_bars, draw_budget


def deep(blocks):
    """Each block's layer passes back a half, its activation nine tenths."""
    modules = [f"blocks.{i}.{part}" for i in range(blocks) for part in ("fc", "act")]
    returned = np.cumprod(np.tile([0.9, 0.5], blocks))[::-1]
    return trace_of(
        modules=modules,
        types=["Linear", "Tanh"] * blocks,
        output_grad_l2_norm=returned,
        input_grad_l2_norm=np.r_[np.nan, returned[:-1]],
        meta={"flow": links(*chain("in", *modules, "out")).to_list(), "model": "Deep"},
    )


def between(norms):
    """Three layers that return gradients of these norms."""
    return trace_of(
        modules=["a", "b", "c"],
        output_grad_l2_norm=norms,
        input_grad_l2_norm=[np.nan, *norms[:-1]],
        meta={"flow": links(*chain("in", "a", "b", "c", "out")).to_list()},
    )


def drawn(axes):
    names = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(names, [bar.get_width() for bar in axes.patches], strict=True))


def test_each_module_has_its_bar_and_they_add_up():
    axes = budget_bars(sigmoid_chain(), "title").axes[0]
    shown = drawn(axes)
    assert list(shown) == ["head", "blocks.1.act", "blocks.1.fc", "blocks.0.act", "blocks.0.fc"]
    assert shown["head"] == pytest.approx(np.log10(0.04 / 0.1), abs=1e-5)
    assert sum(shown.values()) == pytest.approx(-3.0, abs=1e-5)
    assert axes.get_title(loc="left") == "title: −3.0 decades between head and stem"
    assert "decades" in axes.get_xlabel()
    low, high = axes.get_ylim()
    assert low > high  # the loss at the top


@pytest.mark.parametrize("most", [44, 20, 6])
def test_a_deep_network_has_fewer_bars_that_still_add_up(most):
    budget = budget_of(deep(40))
    bars = bars_of(budget, most)
    assert len(bars) <= most
    assert sum(bar.decades for bar in bars) == pytest.approx(budget.decades)
    assert bars[0].name == "blocks.39" if most > 40 else bars[-1].name == f"{80 - most} more"


def test_loss_and_gain_differ_in_colour_and_are_explained():
    trace = between([1.0, 0.1, 1.0])
    figure = budget_bars(trace)
    faces = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert len(set(faces)) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lost on the way back", "gained"]
    assert SHRINKS != GROWS != BESIDE


@pytest.mark.parametrize("norms", [[1.0, 0.1, 1.0], [1.0, 1e-12, 1e-6], [1e-12, 1e-6, 1.0], [1e12, 1e-9, 1.0]])
def test_numbers_stay_within_the_axes(norms):
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.add_subplot()
    draw_budget(axes, between(norms))
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    assert len(axes.texts) == 2
    for text in axes.texts:
        assert box.x0 <= text.get_window_extent().x0
        assert text.get_window_extent().x1 <= box.x1


def test_no_budget_says_why():
    with pytest.raises(TraceError, match="no budget: no gradient of any module's output was recorded"):
        budget_bars(network(0.5))
    assert MOST_BARS > 40
    with pytest.raises(TraceError, match="no budget"):
        budget_bars(recurrent())

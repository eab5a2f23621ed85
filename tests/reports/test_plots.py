"""`trace.plot` draws what the files of `gradscope report --format png` show, on any axes."""

import subprocess
import sys
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from builders import trace_of
from examples import network, recurrent, sigmoid_chain
from matplotlib.figure import Figure

from gradscope.errors import TraceError
from gradscope.records import Quantity
from gradscope.reports.budget_figure import budget_bars
from gradscope.reports.figures import gradient_by_depth
from gradscope.reports.heatmaps import heatmaps
from gradscope.reports.time_figures import gradient_by_time


@pytest.fixture(autouse=True)
def no_window():
    with mpl.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def sigmoid_like():
    """The same with the rms of its gradients."""
    trace = sigmoid_chain()
    return trace_of(
        modules=[site.module for site in trace.sites if site.quantity is Quantity.OUTPUT_GRAD],
        output_grad_rms=[1e-4, 1e-3, 4e-3, 1e-2, 0.04, 0.1],
        output_grad_l2_norm=[1e-4, 1e-3, 4e-3, 1e-2, 0.04, 0.1],
        input_grad_l2_norm=[np.nan, 1e-4, 1e-3, 4e-3, 1e-2, 0.04],
        meta=trace.meta,
    )


def axes_of_ones_own():
    return Figure(figsize=(4, 3), layout="constrained").add_subplot()


def lines(axes):
    return [line.get_xydata().tolist() for line in axes.lines]


def test_depth_is_the_figure_of_the_report():
    trace = network(0.25)
    axes = trace.plot.depth()
    (of_report,) = gradient_by_depth({"MLP": [trace]}).axes
    assert lines(axes) == lines(of_report)
    assert axes.get_ylabel() == of_report.get_ylabel() == "rms of ∂L/∂y"
    assert axes.get_ylim() == of_report.get_ylim()
    assert axes.get_title(loc="left") == "MLP: ∂L/∂y by depth"


def test_time_is_the_figure_of_the_report():
    trace = recurrent(0.5, layers=["l0", "l1"])
    (of_report,) = gradient_by_time({"Tagger": [trace]}).axes
    np.testing.assert_equal(lines(trace.plot.time()), lines(of_report))
    assert trace.plot.time(module="rnn").get_xlabel() == "position in the sequence"


def test_map_is_the_figure_of_the_report():
    trace = network(0.25)
    axes = trace.plot.map()
    of_report = heatmaps({"MLP": trace}, Quantity.OUTPUT_GRAD).axes[0]
    mine, theirs = axes.collections[0], of_report.collections[0]
    np.testing.assert_array_equal(mine.get_array(), theirs.get_array())
    assert (mine.norm.vmin, mine.norm.vmax) == (theirs.norm.vmin, theirs.norm.vmax)
    assert axes.figure.axes[1].get_ylabel() == "log₁₀ rms of ∂L/∂y"


def test_budget_is_the_figure_of_the_report():
    trace = sigmoid_chain()
    (of_report,) = budget_bars(trace).axes
    widths = [bar.get_width() for bar in trace.plot.budget().patches]
    assert widths == [bar.get_width() for bar in of_report.patches]


@pytest.mark.parametrize("name", ["depth", "map", "budget"])
def test_given_axes_are_drawn_on_and_keep_their_title(name):
    axes = axes_of_ones_own()
    axes.set_title("mine")
    assert getattr(sigmoid_like().plot, name)(ax=axes) is axes
    assert axes.get_title() == "mine"
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert plt.get_fignums() == []


def test_time_on_given_axes_has_its_legend_inside():
    axes = axes_of_ones_own()
    assert recurrent(0.5).plot.time(ax=axes) is axes
    axes.figure.draw_without_rendering()
    inside, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
    assert inside.x0 <= legend.x0
    assert legend.x1 <= inside.x1


def test_a_legend_on_given_axes_hides_no_cross():
    rms = np.array([[1.0, 1.0, np.nan, np.nan]])
    trace = trace_of(output_grad_rms=rms, output_grad_nonfinite_count=np.isnan(rms) * 1.0)
    axes = trace.plot.depth(ax=axes_of_ones_own())
    axes.figure.draw_without_rendering()
    (crosses,) = axes.collections
    assert axes.get_legend().get_window_extent().y1 < crosses.get_window_extent().y0


def test_given_axes_keep_the_callers_sizes():
    with mpl.rc_context({"lines.linewidth": 0.7, "font.size": 6}):
        axes = network(0.5).plot.depth(ax=axes_of_ones_own())
    assert {line.get_linewidth() for line in axes.lines} == {0.7}
    assert axes.yaxis.label.get_size() == 6


def test_names_of_layers_do_not_overlap_on_small_axes():
    trace = trace_of(modules=[f"encoder{i}" for i in range(30)], output_grad_rms=np.ones(30))
    axes = trace.plot.depth(ax=axes_of_ones_own())
    axes.figure.draw_without_rendering()
    left = [label.get_window_extent().x1 for label in axes.get_xticklabels()]  # they end at their tick
    height = axes.get_xticklabels()[0].get_size() * axes.figure.dpi / 72
    assert len(left) >= 8
    assert np.diff(left).min() > height
    upright = trace.plot.map(ax=axes_of_ones_own())
    upright.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in upright.get_yticklabels()]
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))


def test_shares_have_an_axis_from_nothing_to_all():
    trace = trace_of(output_dead_fraction=[0.1, 0.0, 0.9], output_rms=[1.0, 1.0, 1.0])
    axes = trace.plot.depth(quantity="output", stat="dead_fraction")
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim() == pytest.approx((-0.03, 1.03))
    assert axes.get_ylabel() == "dead fraction of y"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.1, 0.0, 0.9], rtol=1e-6)
    mesh = trace.plot.map(quantity="output", stat="dead_fraction").collections
    assert len(mesh) == 1  # of a share, zero is a value as any other
    assert (mesh[0].norm.vmin, mesh[0].norm.vmax) == (0, 1)


def test_what_may_be_negative_is_not_logarithmic():
    axes = trace_of(output_mean=[-0.5, 0.5]).plot.depth(quantity=Quantity.OUTPUT, stat="mean")
    assert axes.get_yscale() == "linear"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [-0.5, 0.5])


@pytest.mark.parametrize(("module", "count"), [("layers.1", 1), ("layers.1*", 6), ("layers.*", 15), (None, 15)])
def test_modules_are_chosen_by_name_or_wildcard(module, count):
    trace = network(0.9)
    assert len(trace.plot.depth(module=module).lines[0].get_ydata()) == count
    assert trace.plot.map(module=module).collections[0].get_array().size == 10 * count


def test_special_cells_are_explained_above_given_axes():
    rms = np.array([[1.0, 0.0, np.nan], [1.0, 0.0, 1.0]])
    axes = trace_of(output_grad_rms=rms).plot.map(ax=axes_of_ones_own())
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["never observed", "exactly zero"]
    assert axes.figure.legends == []


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: network(0.5).plot.time(), r"no gradient in the trace has 8 .*; `plot.depth\(\)` draws the layers"),
        (lambda: recurrent().plot.time(module="rn"), r"`plot.time\(module='rn'\)` names .*; did you mean 'rnn'\?"),
        (lambda: network(0.5).plot.budget(), "no budget: "),
        (lambda: network(0.5).plot.depth(quantity="gate"), "holds no rms of gate; it holds output, output_grad"),
        (lambda: network(0.5).plot.map(quantity="gate"), "holds no rms of gate"),
        (lambda: network(0.5).plot.map(quantity="outptu"), "'outptu' is no quantity; did you mean 'output'"),
        (lambda: network(0.5).plot.depth(stat="rmss"), "'rmss' is no statistic; did you mean 'rms'"),
        (lambda: network(0.5).plot.depth(module="x*"), r"`module='x\*'` names nothing with output_grad"),
        (lambda: network(0.5).plot.depth(stat="dead_fraction"), "holds no dead_fraction of output_grad"),
    ],
)
def test_where_there_is_nothing_to_draw_it_is_said(draw, said):
    with pytest.raises(TraceError, match=said):
        draw()
    assert plt.get_fignums() == []


def test_matplotlib_waits_until_something_is_drawn():
    imports = "import sys, gradscope.trace, gradscope.reports, gradscope.reports.notebook"
    code = f"{imports}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

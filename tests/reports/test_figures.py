from dataclasses import replace

import numpy as np
from builders import trace_of
from examples import HEALTHY, comparison, network, variant

from gradscope.reports.canvas import COLOURS, MARKERS
from gradscope.reports.figures import figures_of, gradient_by_depth, gradient_norm, loss_curves, save_figures

TRACES = {"sigmoid": [network(0.25)], "relu": [network(0.98)]}


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_gradient_by_depth_has_a_line_for_each_variant_on_a_log_scale():
    axes = gradient_by_depth(TRACES, "title").axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_title(loc="left") == "title: gradient by depth"
    assert "∂L/∂y" in axes.get_ylabel()
    assert lines(axes).keys() == {"sigmoid", "relu"}
    np.testing.assert_allclose(lines(axes)["sigmoid"].get_ydata(), 1e-2 * 0.25 ** np.arange(15)[::-1], rtol=1e-5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["sigmoid", "relu"]


def test_lines_differ_in_colour_and_in_marker():
    many = {f"v{i}": [network(0.9)] for i in range(8)}
    drawn = lines(gradient_by_depth(many).axes[0]).values()
    assert len({line.get_color() for line in drawn}) == 8 == len(COLOURS)
    assert len({line.get_marker() for line in drawn}) == 8 == len(MARKERS)


def test_layers_are_named_and_thinned():
    few = [t.get_text() for t in gradient_by_depth({"a": [network(0.9, layers=5)]}).axes[0].get_xticklabels()]
    assert few == ["0", "1", "2", "3", "4"]  # without "layers.", which all have
    many = gradient_by_depth({"a": [network(0.99, layers=500)]}).axes[0].get_xticklabels()
    assert len(many) <= 16


def test_models_of_different_depth_share_an_axis_of_numbers():
    axes = gradient_by_depth({"a": [network(0.9, layers=3)], "b": [network(0.9, layers=6)]}).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3", "4", "5", "6"]


def test_zero_and_nan_are_gaps_and_nan_is_marked():
    rms = np.array([[1.0, 0.0, np.nan, 1.0]])
    trace = trace_of(output_grad_rms=rms, output_grad_nonfinite_count=np.isnan(rms) * 5.0)
    axes = gradient_by_depth({"a": [trace]}).axes[0]
    assert np.isnan(lines(axes)["a"].get_ydata()).tolist() == [False, True, True, False]
    (crosses,) = axes.collections
    assert crosses.get_offsets()[:, 0].tolist() == [2.0]
    assert crosses.get_label() == "NaN or Inf"


def test_a_healthy_profile_looks_flat():
    low, high = gradient_by_depth({"a": [network(1.0)]}).axes[0].get_ylim()
    assert high / low >= 1e4


def test_clipping_shows_as_a_second_dashed_line():
    trace = trace_of(modules=["", ""], total_norm_l2_norm=np.tile([10.0, 1.0], (5, 1)))
    named = tuple(replace(site, name=name) for site, name in zip(trace.sites, ("raw", "applied"), strict=True))
    axes = gradient_norm({"a": [replace(trace, sites=named)]}).axes[0]
    assert axes.get_yscale() == "log"
    assert lines(axes)["a"].get_ydata().tolist() == [10.0] * 5
    (applied,) = [line for line in axes.lines if line.is_dashed() and len(line.get_ydata())]
    assert applied.get_ydata().tolist() == [1.0] * 5
    assert "as the optimizer\nread it" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_loss_is_the_median_of_the_runs_with_their_range():
    runs = [trace_of(output_grad_rms=[1.0], steps=4, loss=value) for value in (1.0, 2.0, 6.0)]
    axes = loss_curves({"a": runs}).axes[0]
    assert lines(axes)["a"].get_ydata().tolist() == [2.0] * 4
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (1.0, 6.0)


def test_a_long_noisy_loss_is_smoothed_and_kept_pale():
    noisy = np.tile([1.0, 1.0, 1.0, 50.0], 50)
    axes = loss_curves({"a": [trace_of(output_grad_rms=[1.0], steps=200, loss=noisy)]}).axes[0]
    assert lines(axes)["a"].get_ydata().max() == 1.0
    assert any(line.get_alpha() == 0.3 and line.get_ydata().max() == 50.0 for line in axes.lines)
    assert "running median" in axes.get_xlabel()


def test_an_exploding_loss_does_not_hide_the_others():
    runs = {
        "good": [trace_of(output_grad_rms=[1.0], steps=20, loss=np.linspace(2, 0.1, 20))],
        "bad": [trace_of(output_grad_rms=[1.0], steps=20, loss=np.r_[np.full(15, 2.0), 10.0 ** np.arange(5, 10)])],
    }
    assert loss_curves(runs).axes[0].get_yscale() == "log"


def test_what_explodes_leaves_the_axes_and_the_rest_stays_visible():
    loss = np.r_[np.full(15, 2.0), 1e30]
    axes = loss_curves({"a": [trace_of(output_grad_rms=[1.0], steps=16, loss=loss)]}).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[1] < 1e9


def test_an_infinite_loss_is_marked():
    trace = trace_of(output_grad_rms=[1.0], steps=3, loss=[1.0, np.inf, np.inf])
    axes = loss_curves({"a": [trace]}).axes[0]
    assert [c.get_offsets()[:, 0].tolist() for c in axes.collections] == [[1.0, 2.0]]


def test_figures_of_a_comparison_are_saved(tmp_path):
    paths = save_figures(comparison(seeds=2), tmp_path / "new")
    assert [path.name for path in paths] == ["gradient-by-depth.png", "loss.png", "heatmap.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_same_trace_gives_the_same_svg(tmp_path):
    first = save_figures(network(0.5), tmp_path / "a", ".svg")
    again = save_figures(network(0.5), tmp_path / "b", ".svg")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert "<svg" in first[0].read_text(encoding="utf-8")


def test_a_trace_without_gradients_has_no_figures_of_them():
    assert list(figures_of(trace_of(weight_rms=[1.0]))) == []
    assert [name for name, _ in figures_of(trace_of(weight_rms=[1.0], loss=1.0))] == ["loss"]


def test_seeds_that_stopped_early_do_not_break_the_loss():
    long, short = network(0.9, steps=10), network(0.9, steps=4)
    one = variant("a", 0.9, HEALTHY)
    assert lines(loss_curves({one.name: [long, short]}).axes[0])["a"].get_xdata().tolist() == list(range(10))


def test_a_loss_of_nan_is_marked_and_the_axis_reaches_it():
    trace = trace_of(
        output_grad_rms=[1.0],
        steps=4,
        loss=[1.0, 0.5, np.nan, np.nan],
        loss_mean=np.array([[1.0], [0.5], [np.nan], [np.nan]]),
        loss_nonfinite_count=np.array([[0.0], [0.0], [1.0], [1.0]]),
    )
    axes = loss_curves({"a": [trace]}).axes[0]
    assert [c.get_offsets()[:, 0].tolist() for c in axes.collections] == [[2.0, 3.0]]
    assert axes.get_xlim()[1] >= 3

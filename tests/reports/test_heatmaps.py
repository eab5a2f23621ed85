import numpy as np
import pytest
from builders import trace_of
from examples import network, recurrent

from gradscope.records import Quantity
from gradscope.reports.heatmaps import NONFINITE_COLOUR, heatmaps, heatmaps_through_time


def test_a_run_that_ended_early_is_hatched_after_its_end():
    figure = heatmaps({"a": network(0.9, steps=10), "b": network(0.9, steps=2)}, Quantity.OUTPUT_GRAD)
    assert {axes.get_xlim() for axes in figure.axes[:2]} == {(-0.5, 9.5)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no step"]


def test_the_three_states_look_different_in_a_heatmap():
    rms = np.array([[1.0, 0.0, np.nan, np.nan], [1.0, 1.0, 1.0, 1.0]])
    nonfinite = np.array([[0.0, 0.0, 4.0, np.nan], [0.0, 0.0, 0.0, 0.0]])
    figure = heatmaps({"a": trace_of(output_grad_rms=rms, output_grad_nonfinite_count=nonfinite)}, Quantity.OUTPUT_GRAD)
    values, *special = figure.axes[0].collections
    assert np.ma.getmaskarray(values.get_array()).reshape(4, 2).T.tolist() == [
        [False, True, True, True],
        [False, False, False, False],
    ]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["never observed", "exactly zero", "NaN or Inf"]
    assert [int((~np.ma.getmaskarray(layer.get_array())).sum()) for layer in special] == [1, 1, 1]
    assert len({layer.cmap(0.0) for layer in special}) == 3
    assert np.allclose(special[2].cmap(0.0)[:3], [int(NONFINITE_COLOUR[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def test_heatmaps_share_their_colours():
    figure = heatmaps({"a": network(0.25), "b": network(0.98)}, Quantity.OUTPUT_GRAD)
    first, second = (axes.collections[0].norm for axes in figure.axes[:2])
    assert (first.vmin, first.vmax) == (second.vmin, second.vmax)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["a", "b"]


def test_steps_of_a_heatmap_are_those_recorded():
    figure = heatmaps({"a": trace_of(output_grad_rms=np.ones((4, 3)), every=10)}, Quantity.OUTPUT_GRAD)
    formatter = figure.axes[0].xaxis.get_major_formatter()
    assert [formatter(i, 0) for i in (0, 3, 4)] == ["0", "30", ""]


def test_a_single_step_has_one_number():
    figure = heatmaps({"a": trace_of(output_grad_rms=np.ones((1, 3)))}, Quantity.OUTPUT_GRAD)
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels() if label.get_text()] == ["0"]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 14])
def test_every_variant_has_its_panel(count):
    panels = {f"v{i}": network(0.9) for i in range(count)}
    assert len(heatmaps(panels, Quantity.OUTPUT_GRAD).axes) == count + 1  # and the colours


def test_panels_of_different_networks_count_their_layers():
    named = {
        name: trace_of(modules=[f"{name}.a_long_name{i}" for i in range(6)], output_grad_rms=np.ones(6))
        for name in "ab"
    }
    figure = heatmaps(named, Quantity.OUTPUT_GRAD)
    figure.canvas.draw()
    for axes in figure.axes[:2]:
        assert {label.get_text() for label in axes.get_yticklabels()} >= {"1", "3", "5"}


def cells(axes):
    return axes.collections[0].get_array().reshape(axes.collections[0].get_coordinates().shape[0] - 1, -1)


def test_time_runs_upwards_and_training_to_the_right():
    axes = heatmaps_through_time({"a": recurrent(0.5, steps=7)}).axes[0]
    assert cells(axes).shape == (40, 7)
    np.testing.assert_allclose(cells(axes)[:, 0], np.log10(0.01 * 0.5 ** np.arange(40)[::-1]), rtol=1e-5)


def test_of_a_single_trace_each_layer_has_its_panel():
    figure = heatmaps_through_time({"model": recurrent(layers=["l0", "l0_reverse"])})
    assert [axes.get_title(loc="left") for axes in figure.axes[:-1]] == ["rnn l0", "rnn l0 reverse"]


def test_the_layers_of_a_variant_are_stacked():
    figure = heatmaps_through_time({"deep": recurrent(layers=["l0", "l1", "l2"]), "flat": recurrent()})
    deep, flat, _ = figure.axes
    assert cells(deep).shape == (120, 10)
    assert cells(flat).shape == (40, 10)
    assert [label.get_text() for label in deep.get_yticklabels()] == ["l0", "l1", "l2"]
    assert [line.get_ydata()[0] for line in deep.lines] == [39.5, 79.5]  # a seam between them


def test_a_gradient_that_is_zero_past_its_reach_is_white():
    figure = heatmaps_through_time({"a": recurrent(1e-30, length=20)})
    assert "exactly zero" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_cuts_are_lines_across_the_panel():
    axes = heatmaps_through_time({"a": recurrent(window=10)}).axes[0]
    assert [line.get_ydata()[0] for line in axes.lines] == [9.5, 19.5, 29.5]

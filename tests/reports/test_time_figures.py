import numpy as np
import pytest
from examples import network, recurrent, with_times

from gradscope.reports.canvas import COLOURS
from gradscope.reports.time_figures import (
    CUT_LABEL,
    EARLY_LABEL,
    MEMORY_LABEL,
    gradient_by_time,
    gradient_split,
    with_two_sources,
)


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_gradient_by_time_runs_over_the_sequence():
    trace = with_times(network(0.9, steps=2), np.array([0.5 ** np.arange(20)[::-1]] * 2))
    axes = gradient_by_time({"rnn": [trace]}).axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "position in the sequence"
    np.testing.assert_allclose(lines(axes)["rnn"].get_ydata(), 0.5 ** np.arange(20)[::-1], rtol=1e-5)


def marks(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def explained(axes):
    return {text.get_text() for text in axes.get_legend().get_texts()}


def test_a_line_for_each_layer_of_a_single_trace_with_its_memory():
    axes = gradient_by_time({"model": [recurrent(0.5, layers=["l0", "l1"])]}).axes[0]
    assert lines(axes).keys() == {"rnn l0\nmemory 10", "rnn l1\nmemory 10"}
    np.testing.assert_allclose(
        lines(axes)["rnn l0\nmemory 10"].get_ydata(), 0.01 * 0.5 ** np.arange(40)[::-1], rtol=1e-5
    )
    assert axes.get_ylabel() == "rms of ∂L/∂h"


def test_variants_are_compared_by_their_last_layer():
    traces = {"rnn": [recurrent(0.5, layers=["l0", "l1", "l1_reverse"])], "lstm": [recurrent(0.9, mode="LSTM")]}
    axes = gradient_by_time(traces).axes[0]
    assert lines(axes).keys() == {"rnn\nmemory 10", "lstm\nmemory >39"}
    assert axes.get_ylabel() == "rms of ∂L/∂h (LSTM: with ∂L/∂c)"
    np.testing.assert_allclose(lines(axes)["lstm\nmemory >39"].get_ydata()[0], 0.01 * 0.9**39, rtol=1e-4)


def test_a_ring_stands_where_a_thousandth_is_left():
    axes = gradient_by_time({"a": [recurrent(0.5)]}).axes[0]
    (ring,) = marks(axes, "_memory")
    assert ring.get_xdata()[0] == pytest.approx(39 + np.log(1e-3) / -np.log(0.5), abs=0.6)
    assert ring.get_ydata()[0] == pytest.approx(1e-5, rel=0.5)
    assert ring.get_markeredgecolor() == COLOURS[0]
    assert MEMORY_LABEL in explained(axes)


def test_in_reverse_the_ring_is_reached_from_the_first_position():
    axes = gradient_by_time({"a": [recurrent(0.5, layers=["l0_reverse"])]}).axes[0]
    (ring,) = marks(axes, "_memory")
    assert ring.get_xdata()[0] == pytest.approx(10, abs=0.6)
    assert any("its end is position 0" in label for label in lines(axes))


def test_a_memory_beyond_the_sequence_has_no_ring():
    axes = gradient_by_time({"a": [recurrent(1.0)]}).axes[0]
    assert not marks(axes, "_memory")
    assert list(lines(axes)) == ["rnn\nmemory >39"]


def test_a_line_breaks_at_a_cut_and_shows_it():
    axes = gradient_by_time({"a": [recurrent(0.9, window=10)]}).axes[0]
    ((_, line),) = lines(axes).items()
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [10, 21, 32]
    (bars,) = marks(axes, "_cut")
    assert bars.get_xdata().tolist() == [10, 20, 30]
    assert CUT_LABEL in explained(axes)


def test_sequences_of_different_lengths_are_aligned_at_their_ends():
    axes = gradient_by_time({"short": [recurrent(length=10)], "long": [recurrent(length=40)]}).axes[0]
    assert {line.get_xdata()[-1] for line in lines(axes).values()} == {0}
    assert {line.get_xdata()[0] for line in lines(axes).values()} == {-9, -39}
    assert "end" in axes.get_xlabel()


def test_what_training_changed_is_drawn_at_first_and_at_last():
    learned = recurrent([0.5] * 10 + [0.8] * 20 + [0.95] * 10, steps=40)
    axes = gradient_by_time({"a": [learned]}).axes[0]
    ((_, last),) = lines(axes).items() - {(EARLY_LABEL, lines(axes)[EARLY_LABEL])}
    assert last.get_ydata()[0] == pytest.approx(0.01 * 0.95**39, rel=1e-3)
    (first,) = (line for line in axes.lines if line.get_label() == "_")
    assert first.get_ydata()[0] == pytest.approx(0.01 * 0.5**39, rel=1e-3)


def test_a_gradient_that_only_shrinks_as_a_whole_is_one_line():
    axes = gradient_by_time({"a": [recurrent(0.8, steps=40)]}).axes[0]
    assert EARLY_LABEL not in lines(axes)


def test_the_parts_of_the_gradient_stand_beside_their_sum():
    axes = gradient_split(recurrent(0.5, local=1e-3)).axes[0]
    arriving, carried, local = (lines(axes)[name].get_ydata() for name in list(lines(axes)))
    known = ~np.isnan(carried)
    np.testing.assert_allclose(arriving[known], np.hypot(carried, local)[known], rtol=1e-5)
    assert np.isnan(carried[-1])


def test_a_loss_that_reads_the_end_alone_has_one_source():
    assert not with_two_sources(recurrent(0.5))
    assert with_two_sources(recurrent(0.5, local=1e-3))
    assert not with_two_sources(network(0.5))

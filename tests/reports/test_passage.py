import numpy as np
import pytest
from examples import network, recurrent

from gradscope.reports.passage import column_medians, joined_symbols, memory_words, passages, rows_of


def test_every_layer_and_direction_in_the_order_of_the_network():
    assert [p.name for p in passages(recurrent(layers=["l0", "l0_reverse", "l1", "l1_reverse"]))] == [
        "rnn l0",
        "rnn l0 reverse",
        "rnn l1",
        "rnn l1 reverse",
    ]
    assert [p.name for p in passages(recurrent())] == ["rnn"]
    assert passages(network(0.5)) == []


@pytest.mark.parametrize("mode", ["RNN_TANH", "LSTM"])
def test_what_arrives_is_what_the_loss_sends_and_what_is_carried(mode):
    (passage,) = passages(recurrent(0.7, mode=mode, local=1e-3))
    assert passage.rms.shape == (10, 40)
    np.testing.assert_allclose(passage.rms, np.hypot(passage.local, passage.carried), rtol=1e-5)
    np.testing.assert_allclose(passage.carried[:, :-1], 0.7 * passage.rms[:, 1:], rtol=1e-5)
    assert passage.seen.all()
    assert not passage.nonfinite.any()


def test_the_two_states_of_an_lstm_are_named():
    assert [p.symbol for p in passages(recurrent(mode="LSTM"))] == ["∂L/∂h with ∂L/∂c"]
    assert joined_symbols(["∂L/∂h", "∂L/∂h with ∂L/∂c", "∂L/∂h"]) == "∂L/∂h (LSTM: with ∂L/∂c)"
    assert joined_symbols(["∂L/∂x", "∂L/∂h"]) == "∂L/∂x or ∂L/∂h"


def test_numbers_are_the_median_of_the_steps():
    (passage,) = passages(recurrent([0.5, 0.9, 0.9], steps=3))
    assert passage.gain() == pytest.approx(0.9)
    assert passage.gain("first") == pytest.approx(0.5)
    assert passage.lag == 39
    assert passage.memory(0.5) == pytest.approx(np.log(0.5) / np.log(0.9), abs=1)
    assert passage.memory(0.5, "first") == pytest.approx(1)


def test_steps_without_a_finite_gradient_do_not_shorten_the_way():
    (passage,) = passages(recurrent([0.9, np.inf, np.inf], steps=3))
    assert passage.lag == 39
    assert passage.memory() > 39
    assert passage.nonfinite[1:, :-1].all()
    assert not passage.nonfinite[0].any()


def test_cuts_are_where_a_state_comes_from_before_and_no_gradient_goes_back():
    assert [p.cuts for p in passages(recurrent(window=10))] == [(10, 20, 30)]
    assert [p.cuts for p in passages(recurrent())] == [()]


def test_a_memory_is_not_said_to_be_longer_than_what_was_seen():
    assert memory_words(12.4, 39) == "12"
    assert memory_words(139, 39) == memory_words(np.inf, 39) == ">39"


def test_the_first_and_the_last_tenth_of_a_run():
    assert np.arange(50)[rows_of(50, "first")].tolist() == [0, 1, 2, 3, 4]
    assert np.arange(50)[rows_of(50, "last")].tolist() == [45, 46, 47, 48, 49]
    assert np.arange(3)[rows_of(3, "last")].tolist() == [2]
    assert np.arange(3)[rows_of(3, "all")].tolist() == [0, 1, 2]


def test_a_median_is_of_what_is_finite():
    assert column_medians(np.array([[1.0, np.nan], [3.0, np.nan], [np.inf, np.nan]]))[0] == 2.0
    assert np.isnan(column_medians(np.full((2, 1), np.nan))[0])

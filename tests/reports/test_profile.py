import numpy as np
import pytest
from builders import trace_of
from examples import network, recurrent, with_times

from gradscope.records import Quantity, Site
from gradscope.reports.profile import SYMBOL, depth_profile, place, time_profile


def test_a_place_has_the_median_over_the_steps():
    trace = trace_of(output_grad_rms=[[1.0, 5.0], [3.0, 5.0], [100.0, 5.0]])
    profile = depth_profile([trace], Quantity.OUTPUT_GRAD)
    assert profile.rms.tolist() == [3.0, 5.0]
    assert profile.first_to_last == pytest.approx(0.6)


def test_runs_of_one_model_are_taken_together():
    runs = [trace_of(output_grad_rms=np.full((1, 3), value)) for value in (1.0, 2.0, 9.0)]
    assert depth_profile(runs, Quantity.OUTPUT_GRAD).rms.tolist() == [2.0, 2.0, 2.0]


def test_a_run_with_other_layers_is_left_out():
    runs = [trace_of(output_grad_rms=[[1.0, 1.0]]), trace_of(output_grad_rms=[[9.0, 9.0, 9.0]])]
    assert depth_profile(runs, Quantity.OUTPUT_GRAD).rms.tolist() == [1.0, 1.0]


def test_nan_in_one_step_is_not_hidden_by_the_median():
    rms = np.ones((5, 3))
    rms[3, 1] = np.nan
    trace = trace_of(output_grad_rms=rms, output_grad_nonfinite_count=np.isnan(rms) * 7.0)
    profile = depth_profile([trace], Quantity.OUTPUT_GRAD)
    assert profile.nonfinite.tolist() == [False, True, False]
    assert profile.rms.tolist() == [1.0, 1.0, 1.0]


def test_a_layer_that_is_never_finite_has_no_value():
    trace = trace_of(output_grad_rms=[[1.0, np.nan]], output_grad_nonfinite_count=[[0.0, 9.0]])
    profile = depth_profile([trace], Quantity.OUTPUT_GRAD)
    assert np.isnan(profile.rms[1])
    assert profile.seen.all()


def test_what_was_never_recorded_has_no_profile():
    assert depth_profile([trace_of(weight_rms=[1.0])], Quantity.OUTPUT_GRAD) is None
    assert time_profile([network(0.5)]) is None


def test_the_gradient_over_a_sequence():
    trace = with_times(network(0.5, steps=2), np.array([0.5 ** np.arange(9)[::-1]] * 2))
    profile = time_profile([trace])
    assert profile.axis == "time"
    assert profile.where == "layers.0"
    assert profile.rms[0] == pytest.approx(0.5**8)
    assert len(profile) == 9


def test_a_module_that_ran_a_few_times_a_step_is_no_sequence():
    assert time_profile([with_times(network(0.5, steps=1), np.ones((1, 3)))]) is None


@pytest.mark.parametrize(
    ("module", "quantity", "name", "shown"),
    [
        ("fc", Quantity.OUTPUT, "", "fc"),
        ("lstm", Quantity.OUTPUT, "0", "lstm"),
        ("lstm", Quantity.OUTPUT, "1.0", "lstm[1.0]"),
        ("fc", Quantity.WEIGHT_GRAD, "weight", "fc"),
        ("fc", Quantity.WEIGHT_GRAD, "bias", "fc.bias"),
        ("", Quantity.INPUT, "", "(model)"),
    ],
)
def test_names_on_an_axis(module, quantity, name, shown):
    assert place(Site(module=module, module_type="X", quantity=quantity, name=name)) == shown


def test_the_exact_gradient_of_a_state_comes_first():
    trace = recurrent(0.5, layers=["l0", "l1", "l1_reverse"])
    profile = time_profile([trace])
    assert profile.quantity is Quantity.STATE_GRAD
    assert profile.where == "rnn l1"  # the last layer's forward direction
    assert profile.symbol == "∂L/∂h"
    np.testing.assert_allclose(profile.rms, 0.01 * 0.5 ** np.arange(40)[::-1], rtol=1e-5)
    assert profile.lag == 39
    assert profile.memory == pytest.approx(10, abs=1)


def test_in_reverse_the_way_back_leads_to_the_last_position():
    profile = time_profile([recurrent(0.5, layers=["l0_reverse"])])
    assert profile.reverse
    assert profile.first_to_last == pytest.approx(0.5**39)


def test_runs_of_one_recurrent_model_are_taken_together():
    runs = [recurrent(gain, length=length, steps=1) for gain, length in ((0.5, 20), (0.6, 20), (0.9, 30))]
    profile = time_profile(runs)
    assert len(profile) == 20
    assert profile.rms[0] == pytest.approx(0.01 * 0.6**19)


def test_a_part_of_a_run():
    trace = recurrent([0.5] * 2 + [0.9] * 18, steps=20)
    assert time_profile([trace], "first").rms[0] == pytest.approx(0.01 * 0.5**39)
    assert time_profile([trace], "last").rms[0] == pytest.approx(0.01 * 0.9**39)
    assert time_profile([trace], "first").memory < time_profile([trace], "last").memory


def test_nan_in_one_step_is_not_hidden_in_time():
    gain = np.full(10, 0.9)
    gain[4] = np.inf
    profile = time_profile([recurrent(gain)])
    assert profile.nonfinite[:-1].all()
    assert profile.rms[0] == pytest.approx(0.01 * 0.9**39)


def test_every_quantity_has_a_symbol():
    assert set(SYMBOL) == set(Quantity)

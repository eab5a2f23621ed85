import numpy as np
import pytest
from builders import trace_of

from gradscope.records import Quantity, Statistic
from gradscope.rules.layers import fan_in, learned_layers, profile_of, relative_scale, size_of

NAN = np.nan
TYPES = ["Linear", "ReLU", "BatchNorm1d", "Linear", "Tanh", "Embedding"]


def mixed(**more):
    rms = [0.1, NAN, 1.0, 0.2, NAN, 1.0]
    return trace_of(types=TYPES, numel=400, weight_rms=rms, output_std=np.ones(6), **more)


def test_layers_are_modules_with_a_weight_that_mixes():
    assert [layer.module for layer in learned_layers(mixed())] == ["0", "3", "5"]


def test_each_layer_knows_the_activation_that_follows_it():
    assert [layer.activation for layer in learned_layers(mixed())] == ["ReLU", "Tanh", ""]


def test_relative_scale_is_one_for_he_before_relu_and_for_xavier_before_tanh():
    trace = trace_of(
        types=["Linear", "ReLU", "Linear", "Tanh"],
        numel=400,  # read as 20 × 20
        weight_rms=[np.sqrt(2 / 20), NAN, np.sqrt(1 / 20), NAN],
        output_std=np.ones(4),
    )
    for layer in learned_layers(trace):
        assert fan_in(trace, layer) == 20
        assert relative_scale(trace, layer) == pytest.approx(1.0, rel=1e-6)


def test_a_lookup_table_has_no_scale():
    trace = mixed()
    assert np.isnan(relative_scale(trace, learned_layers(trace)[2])).all()


def test_a_profile_is_log_ten_of_each_layer_and_leaves_out_zeros_and_broken_numbers():
    trace = trace_of(
        output_grad_l2_norm=[1e-3, 0.0, 10.0, 100.0], output_grad_nonfinite_count=[0, 0, 0, 1], weight_rms=np.ones(4)
    )
    profile = profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)
    np.testing.assert_allclose(profile.values[0], [-3, NAN, 1, NAN], rtol=1e-6)


def test_single_numbers_are_no_layers():
    trace = trace_of(numel=1, weight_rms=[1.0, 1.0], output_grad_l2_norm=[1.0, 1.0])
    assert learned_layers(trace) == ()


def test_a_site_that_was_never_observed_has_size_zero():
    trace = mixed()
    column = trace.column("1", Quantity.WEIGHT)
    assert size_of(trace, column) == 0


def test_fan_in_is_the_row_of_the_weight_where_the_trace_knows_its_shape():
    trace = trace_of(
        types=["Conv2d", "Linear"],
        modules=["conv", "fc"],
        numel=720,
        weight_rms=[0.1, 0.1],
        output_std=np.ones(2),
        meta={"shapes": {"conv.weight": [16, 5, 3, 3], "fc.weight": [10, 72]}},
    )
    assert [fan_in(trace, layer) for layer in learned_layers(trace)] == [45, 72]

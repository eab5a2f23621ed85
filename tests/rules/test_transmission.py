import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.transmission import transmission_of_activations

NAN = np.nan


def test_each_kind_of_activation_has_its_gain_the_greatest_loss_first():
    trace = trace_of(
        types=["Linear", "Sigmoid", "Linear", "Sigmoid", "Linear", "ReLU", "Linear"],
        output_grad_l2_norm=[0.1, 1.0, 1.0, 8.0, 8.0, 16.0, 16.0],
        input_grad_l2_norm=[NAN, 0.1, 1.0, 0.8, 8.0, 8.0, 16.0],
    )
    sigmoid, relu = transmission_of_activations(trace, np.arange(10), shallow=1, deep=7)
    assert (sigmoid.module_type, sigmoid.count) == ("Sigmoid", 2)
    assert sigmoid.gain == pytest.approx(0.1)
    assert str(sigmoid) == "2 Sigmoids pass back 0.1 each (the slope of a Sigmoid is at most 0.25)"
    assert relu.gain == pytest.approx(0.5)
    assert str(relu).startswith("1 ReLU passes back 0.5")


def test_without_input_gradients_nothing_is_said():
    trace = trace_of(types=["Linear", "ReLU"], output_grad_l2_norm=[1.0, 1.0])
    assert transmission_of_activations(trace, np.arange(10), shallow=0, deep=9) == []

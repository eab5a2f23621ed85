import numpy as np
import pytest
from builders import trace_of

from gradscope.records import Quantity
from gradscope.reports.outstanding import standings


def test_the_farthest_from_the_median_layer_comes_first():
    found = standings(trace_of(output_grad_rms=[1e-6, 1.0, 2.0, 1e3, 0.5]))
    assert found.quantity is Quantity.OUTPUT_GRAD
    assert [layer.place for layer in found.layers] == ["0", "3", "2", "4", "1"]
    assert [layer.decades for layer in found.layers] == pytest.approx([-6, 3, np.log10(2), np.log10(0.5), 0], abs=1e-6)


def test_what_broke_leads_then_what_is_zero():
    rms = np.array([[1.0, np.nan, 0.0, 1e9, 1.0]])
    broken = np.array([[0.0, 5.0, 0.0, 0.0, 0.0]])
    found = standings(trace_of(output_grad_rms=rms, output_grad_nonfinite_count=broken))
    assert [layer.place for layer in found.layers] == ["1", "2", "3", "0", "4"]
    assert np.isnan(found.layers[0].decades)
    assert found.layers[0].broken_steps == 1
    assert found.layers[1].decades == -np.inf


def test_without_gradients_it_is_the_outputs_and_without_those_nothing():
    assert standings(trace_of(output_rms=[1.0, 2.0])).quantity is Quantity.OUTPUT
    assert standings(trace_of(total_norm_l2_norm=[1.0])) is None


def test_the_larger_share_of_dead_and_saturated_is_told():
    found = standings(
        trace_of(
            output_grad_rms=[1.0, 1.0, 1.0],
            output_dead_fraction=[np.nan, 0.2, 0.3],
            output_saturated_fraction=[np.nan, 0.7, np.nan],
        )
    )
    idle = {layer.place: layer.idle for layer in found.layers}
    assert np.isnan(idle["0"])
    assert (idle["1"], idle["2"]) == pytest.approx((0.7, 0.3))

import numpy as np
import pytest
from builders import trace_of

from gradscope.records import Quantity, Statistic
from gradscope.rules.gain import DECAY, steady, steepest_rises
from gradscope.rules.layers import profile_of, relative_scale
from gradscope.rules.persistence import persistence
from gradscope.rules.stretch import scale_along, stretch_of


def falling(factor=0.1, rms=0.05, layers=8):
    return trace_of(
        types=["Linear"] * layers,
        modules=[f"fc{i}" for i in range(layers)],
        numel=400,
        weight_rms=np.full(layers, rms),
        output_grad_l2_norm=factor ** np.arange(layers)[::-1],
    )


def stretch_in(trace):
    profile = profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)
    rises = steepest_rises(profile.values)
    lasting = persistence(steady(rises, decades=3.0, gain=DECAY), rises.known)
    assert lasting is not None
    return stretch_of(trace, profile, rises, lasting), scale_along(trace, profile, rises)


def test_a_stretch_says_where_how_much_and_since_when():
    stretch, _ = stretch_in(falling())
    assert (stretch.early, stretch.late) == ("fc0", "fc7")
    assert stretch.decades == pytest.approx(7.0, rel=1e-5)
    assert stretch.per_layer == pytest.approx(1.0, rel=1e-5)
    assert stretch.when == "in steps 0 to 9"


def test_the_weights_are_compared_with_what_keeps_the_spread():
    stretch, along = stretch_in(falling(rms=0.05))
    assert along == pytest.approx(0.05 * np.sqrt(20))
    assert stretch.scale == pytest.approx(0.05 * np.sqrt(20))
    assert "0.22 times" in stretch.weights


def test_the_advice_names_a_layer_the_std_it_has_and_the_std_it_needs():
    trace = falling(rms=0.05)
    stretch, _ = stretch_in(trace)
    assert stretch.weight_advice(trace, "larger").startswith(
        "Draw the weights larger: fc1 has an rms of 0.05, a std of 0.22 keeps the spread"
    )


def test_the_scale_along_a_rise_is_the_median_over_its_layers_but_the_first():
    rng = np.random.default_rng(0)
    steps, layers = 60, 9
    rms = rng.uniform(0.01, 0.1, (steps, layers))
    rms[rng.random(rms.shape) < 0.6] = np.nan
    gradient = 10.0 ** (rng.normal(size=(steps, layers)) + 0.4 * np.arange(layers))
    trace = trace_of(types="Linear", numel=400, weight_rms=rms, output_grad_l2_norm=gradient)
    profile = profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)
    rises = steepest_rises(profile.values)
    scales = np.stack([relative_scale(trace, layer) for layer in profile.layers], axis=1)
    wanted = []
    for step in range(steps):
        part = scales[step, rises.foot[step] + 1 : rises.top[step] + 1]
        part = part[np.isfinite(part)]
        wanted.append(np.median(part) if len(part) else np.nan)
    assert 0 < np.isnan(wanted).sum() < steps
    np.testing.assert_array_equal(scale_along(trace, profile, rises), wanted)  # to the last bit

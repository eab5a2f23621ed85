import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.births import birth_of
from gradscope.rules.half_range import left_range

HALF = {"dtypes": {"a": "float16", "b": "float16"}}
BORN = np.arange(5)[:, None] >= 3


def trace(*, peak, quantity="output", scale=np.nan, given=1.0, fan=100, data=False, **more):
    """Broken at the second of two modules, or at the first of all; `given` is the largest number before it."""
    broken = np.array([5.0, 5.0]) if data or quantity != "output" else np.array([0.0, 5.0])
    measured = {
        "output_rms": [given / 3] * 2,
        "output_abs_max": [given] * 2,
        "weight_rms": [1.0, 1.0],
        "weight_numel": [fan**2] * 2,
        f"{quantity}_nonfinite_count": BORN * broken,
        f"{quantity}_abs_max": np.where(BORN * broken > 0, peak, given),
    }
    if data:
        measured |= {"input_rms": [given / 3], "input_abs_max": [given]}
    found = trace_of(modules=["a", "b"], meta=HALF, **(measured | more))
    if data:
        column = next(i for i, site in enumerate(found.sites) if site.quantity == "input")
        sites = list(found.sites)
        sites[column] = type(sites[column])(module="", module_type="Net", quantity=sites[column].quantity, depth=0)
        object.__setattr__(found, "sites", tuple(sites))
    found.per_step["loss_scale"][:] = scale
    return found


def exit_of(found):
    return left_range(found, birth_of(found))


def test_the_largest_finite_neighbour_tells():
    assert exit_of(trace(peak=3e4)).near == 3e4
    assert exit_of(trace(peak=30.0)) is None


def test_what_a_layer_would_have_computed_tells_where_nothing_finite_is_left():
    assert exit_of(trace(peak=np.nan, given=1e4)).kind == "weights"  # rms 3e3 × weight 1 × √100
    assert exit_of(trace(peak=np.nan, given=10.0)) is None


def test_large_data_are_told_from_large_weights():
    found = exit_of(trace(peak=3e4, given=2e5, data=True))
    assert (found.kind, found.near) == ("input", pytest.approx(2e5))


def test_a_gradient_is_as_large_as_the_loss_scale_makes_it():
    assert exit_of(trace(peak=0.5, quantity="output_grad")) is None
    assert exit_of(trace(peak=0.5, quantity="output_grad", scale=65536.0, given=0.1)).near == 32768


def test_without_float16_nothing_leaves_its_range():
    found = trace(peak=3e4)
    object.__setattr__(found, "meta", {})
    assert exit_of(found) is None

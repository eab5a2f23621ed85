import numpy as np
import pytest

from gradscope.rules.gain import DECAY, LEAST_LAYERS, STEADY, steady, steady_growth, steepest_rises


def one(values):
    return steepest_rises(np.asarray(values, dtype=np.float64).reshape(1, -1))


def test_a_straight_line_rises_by_its_slope_times_its_gaps():
    rises = one(0.5 * np.arange(9))
    assert rises.decades[0] == pytest.approx(4.0)
    assert rises.per_layer[0] == pytest.approx(0.5)
    assert (rises.foot[0], rises.top[0]) == (0, 8)


def test_the_steepest_stretch_is_found_inside_of_a_flat_profile():
    rises = one([3, 3, 3, 0, 1, 2, 3, 4, 4, 1])
    assert (rises.foot[0], rises.top[0]) == (3, 7)
    assert rises.decades[0] == pytest.approx(4.0)


def test_a_fall_is_the_rise_of_the_negative():
    assert one(-np.arange(6.0)).decades[0] == 0
    assert steepest_rises(np.arange(6.0).reshape(1, -1)).decades[0] == 5


def test_one_jump_is_no_slope():
    rises = one([0, 0, 0, 5, 5, 5])
    assert rises.decades[0] == 5
    assert not steady(rises, decades=3.0, gain=DECAY)[0]


def test_the_layer_that_changes_most_counts_no_more_than_the_second():
    rises = one([0, 0.2, 25.2, 25.4, 25.7])
    assert rises.per_layer[0] > np.log10(DECAY)
    assert rises.shared[0] == pytest.approx(0.2 + 0.3 + 0.2 + 0.3)
    assert not steady(rises, decades=3.0, gain=DECAY)[0]


def test_unobserved_layers_are_left_out():
    rises = one([0, np.nan, 1, 2, np.nan, 3])
    assert rises.decades[0] == 3
    assert rises.per_layer[0] == 1
    assert (rises.foot[0], rises.top[0]) == (0, 5)


def test_fewer_than_four_layers_are_not_known():
    assert not one(np.arange(LEAST_LAYERS - 1.0)).known[0]


@pytest.mark.parametrize("offset", [-30.0, 4.0])
def test_a_factor_on_everything_changes_nothing(offset):
    values = np.random.default_rng(0).normal(size=(5, 12))
    before, after = steepest_rises(values), steepest_rises(values + offset)
    np.testing.assert_allclose(before.decades, after.decades, atol=1e-9)
    np.testing.assert_array_equal(before.foot, after.foot)


def test_growth_that_the_run_begins_with_is_judged_more_strictly_than_growth_that_training_makes():
    mild, flat = 0.3 * np.arange(8), np.zeros(8)
    from_start = steepest_rises(np.stack([mild] * 10))
    learned = steepest_rises(np.stack([flat] * 5 + [mild] * 5))
    assert steady_growth(from_start, from_start=1.5, grown=3.0).all()
    assert not steady_growth(learned, from_start=1.5, grown=3.0).any()


def test_a_small_gain_over_many_layers_is_growth_once_it_adds_up():
    long, short = (steepest_rises(np.stack([0.08 * np.arange(n)] * 10)) for n in (50, 20))
    assert steady_growth(long, from_start=1.5, grown=3.0).all()
    assert not steady_growth(short, from_start=1.5, grown=3.0).any()


def test_growth_that_the_run_began_with_stands_until_a_third_of_it_is_gone():
    steep = np.linspace(0, 2, 8)
    rises = steepest_rises(np.stack([steep] * 3 + [0.6 * steep] * 3 + [0.4 * steep] * 3))
    assert steady_growth(rises, from_start=1.5, grown=3.0, gain=1.2).tolist() == [True] * 6 + [False] * 3


ZIGZAG = np.tile([0.0, -2.5], 8)


@pytest.mark.parametrize(
    "values",
    [
        ZIGZAG + np.linspace(0, 2, 16),  # branches off a stream that itself hardly changes
        np.r_[0.0, np.linspace(-4, -1, 6), 0.0],  # low in the middle, back at the stream's level at the input
        np.r_[np.linspace(0, 4, 6), 0.0, 0.0],  # the same at the output
    ],
    ids=["back and forth", "heals towards the input", "heals towards the output"],
)
def test_what_goes_back_and_forth_or_heals_is_no_slope(values):
    assert steepest_rises(values[None]).per_layer[0] == 0


def test_a_slope_with_an_odd_layer_is_a_slope():
    values = np.linspace(0, 8, 9)
    values[4] -= 1.5
    assert steepest_rises(values[None]).per_layer[0] == pytest.approx(1.0)


def rise_of(row):
    """Decades, change per layer, foot and top of one step, layer by layer."""
    at = [i for i, value in enumerate(row) if not np.isnan(value)]
    if len(at) < LEAST_LAYERS:
        return np.nan, np.nan, 0, 0
    seen = row[at]
    end = max(range(len(at)), key=lambda i: seen[i] - min(seen[: i + 1]))
    start = min(range(end + 1), key=lambda i: seen[i])
    changes = np.diff(seen[start : end + 1])
    per_layer = 0.0
    middle = (seen[end] + seen[start]) / 2
    steadily = len(changes) and seen[end] - seen[start] >= STEADY * np.abs(changes).sum()
    if len(changes) >= LEAST_LAYERS - 1 and steadily and seen[0] <= middle <= seen[-1]:
        per_layer = min(changes.mean(), np.median(changes))
    return seen[end] - seen[start], per_layer, at[start], at[end]


@pytest.mark.parametrize("layers", [1, 3, 4, 9, 40])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_all_steps_at_once_are_what_each_is_by_itself(layers, missing):
    rng = np.random.default_rng(layers)
    values = 0.3 * np.arange(layers) * rng.integers(-1, 2, (200, 1)) + rng.normal(size=(200, layers))
    values[rng.random(values.shape) < missing] = np.nan
    values[:5] = np.round(values[:5])  # ties
    rises = steepest_rises(values)
    found = list(zip(rises.decades, rises.per_layer, rises.foot, rises.top, strict=True))
    np.testing.assert_array_equal(found, [rise_of(row) for row in values])  # to the last bit


def test_no_steps_and_no_layers_have_no_rises():
    assert not len(steepest_rises(np.zeros((0, 5))).decades)
    assert not steepest_rises(np.zeros((5, 0))).known.any()

import numpy as np
import pytest

from gradscope.rules.aftermath import aftermath

NAN = np.nan


def test_the_losses_after_a_step_are_told_against_those_before():
    loss = np.r_[4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 20.0, 10.0, *np.full(10, 1.0)]
    after = aftermath(loss, 5)
    assert (after.before, after.peak, after.end) == (2.0, 10.0, 0.5)
    assert after.above == pytest.approx(2 / 12)


def test_where_the_loss_had_come_very_low_a_tenth_of_the_first_counts():
    after = aftermath(np.r_[1.0, np.full(9, 1e-6), np.full(10, 0.05)], 9)
    assert (after.before, after.peak) == (0.1, 0.5)


def test_a_loss_that_is_no_number_is_as_high_as_can_be():
    after = aftermath(np.r_[1.0, 2.0, NAN, np.inf, NAN, NAN], 0)
    assert np.isinf(after.peak)
    assert np.isinf(after.end)
    assert after.above == 1.0


@pytest.mark.parametrize(
    ("loss", "step"), [(np.full(5, NAN), 1), (np.ones(5), 4), (np.r_[NAN, NAN, 1, 1], 1), (np.zeros(5), 2)]
)
def test_without_losses_on_both_sides_nothing_is_known(loss, step):
    assert aftermath(loss, step) is None


def test_losses_that_were_not_recorded_are_no_divergence():
    after = aftermath(np.r_[1.0, NAN, NAN, 0.5, NAN, NAN, 0.25, NAN], 0)
    assert (after.peak, after.above) == (0.5, 0.0)

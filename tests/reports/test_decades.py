import numpy as np
import pytest

from gradscope.reports.decades import LEAST_DECADES, MOST_DECADES_ABOVE, ends_of_axis, ends_of_colours


def test_an_axis_spans_its_values():
    assert ends_of_axis([np.array([1e-9, 0.0]), np.array([np.nan, 1.0])]) == pytest.approx((-9, 0))
    assert ends_of_axis([]) == (-LEAST_DECADES, 0.0)


def test_an_explosion_leaves_the_axis_but_not_the_colours_of_the_others():
    values = np.r_[np.ones(999), 1e30]
    assert ends_of_axis([values])[1] == pytest.approx(MOST_DECADES_ABOVE)
    assert ends_of_colours(values) == pytest.approx((-2, 2))

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from gradscope.reports.canvas import log_axis, name_ticks, titled_figure, verbatim, wrapped
from gradscope.reports.decades import LEAST_DECADES, MOST_DECADES_ABOVE, decades, drawable


def limits(*arguments):
    axes = Figure().add_subplot()
    log_axis(axes, *arguments)
    return np.log10(axes.get_ylim())


def test_a_logarithmic_axis_shows_all_and_spans_some_decades():
    low, high = limits([np.array([1e-9, 1e-3]), np.array([0, np.nan, np.inf, 1.0])])
    assert (low, high) == pytest.approx((-9.2, 0.2))
    low, high = limits([np.array([1.0, 1.1])])
    assert high - low == pytest.approx(LEAST_DECADES + 0.4)


def test_what_explodes_leaves_the_axis_at_the_top():
    values = np.array([1.0] * 9 + [1e30])
    assert limits([values])[1] == pytest.approx(MOST_DECADES_ABOVE + 0.2)
    assert limits([values], [values[-1:]])[1] == pytest.approx(30.2), "it does not where that is the usual"


def test_an_axis_without_anything_to_show_has_limits_too():
    assert decades(np.zeros(0)) == (-LEAST_DECADES, 0.0)
    assert np.isfinite(limits([np.array([np.nan, 0.0])])).all()


def test_zero_nan_and_inf_are_gaps():
    shown = drawable(np.array([1.0, 0.0, np.nan, np.inf, 2.0]))
    np.testing.assert_array_equal(shown, [1, np.nan, np.nan, np.nan, 2])


ODD = (r"a$\frac{b$", "$x^2$", r"\$5$", "$", "plain")  # of formulas, matplotlib would draw one and choke on another


@pytest.mark.parametrize("name", ODD)
def test_dollars_are_dollars(name):
    text = Figure().text(0, 0, verbatim(name))
    shown, formula = text._preprocess_math(text.get_text())
    assert (shown, formula) == (name, False)


def test_names_with_dollars_can_be_drawn():
    figure, axes = titled_figure(ODD[0], ODD[1])
    axes.plot([0, 1], [1, 2], label=wrapped(ODD[0]))
    axes.legend()
    name_ticks(axes, ODD)
    name_ticks(axes, ODD, axis="y")
    figure.draw_without_rendering()
    drawn = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    assert len(drawn) >= 2 + len(ODD)  # the title, the legend, and the names at an axis
    assert not any(formula for _, formula in (text._preprocess_math(text.get_text()) for text in drawn))


def test_a_name_of_two_lines_has_one_tick_of_one_line():
    axes = Figure().add_subplot()
    name_ticks(axes, ["a", "new\nline"], axis="y")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", r"new\nline"]

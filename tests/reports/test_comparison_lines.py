import numpy as np

from gradscope.reports.comparison_lines import AT_TOP, axes_of, crosses, extremes, line, log_axes, look, over_steps


def test_twelve_variants_differ_in_colour_or_dash():
    assert len({look(index)[:2] for index in range(12)}) == 12


def test_of_many_points_the_extremes_are_kept():
    values = np.sin(np.arange(10_000.0))
    values[[1234, 8000, 42]] = 50.0, -70.0, np.nan
    kept = extremes(values, 100)
    assert len(kept) <= 102
    assert {1234, 8000, 0, 9999} <= {*kept.tolist()}
    assert (np.diff(kept) > 0).all()
    assert extremes(values[:50], 100).tolist() == list(range(50))
    assert len(extremes(np.full(1000, np.nan), 100)) <= 102


def test_heights_are_shares_of_the_axis():
    assert axes_of("x", "y", 0.0, 10.0, log=False).height(0.5) == 5.0
    assert np.isclose(axes_of("x", "y", 1e-4, 1.0).height(0.5), 1e-2)


def test_what_leaves_the_figure_is_noted():
    axes = log_axes("step", "loss", [np.r_[np.ones(20), 1e20]])
    line(axes, 0, np.arange(2.0), np.array([1.0, np.nan]))
    line(axes, 1, np.arange(2.0), np.array([1.0, 1e20]))
    assert axes.above == {1: 1e20}


def test_each_variant_has_its_own_row_of_crosses():
    axes = axes_of("step", "loss", 0.0, 1.0, log=False)
    for index in (0, 2):
        crosses(axes, index, np.arange(4), np.array([False, True, True, False]))
    crosses(axes, 3, np.arange(4), np.zeros(4, bool))
    drawn = axes.figure.renderers
    assert [one.name for one in drawn] == ["variant-0", "variant-2"]
    heights = [one.data_source.data["y"][0] for one in drawn]
    assert 0.9 < heights[1] < heights[0] < 1
    assert axes.said == [AT_TOP]


def test_a_long_series_is_smoothed_and_small():
    axes = axes_of("step", "loss", 0.0, 100.0, log=False)
    over_steps(axes, 0, np.arange(20_000), np.ones(20_000), log=False)
    assert max(len(one.data_source.data["x"]) for one in axes.figure.renderers) <= 1300
    assert axes.said == ["Running median; pale, every step."]

import numpy as np
import pytest
from builders import trace_of
from rich.text import Text

from gradscope.records import Quantity
from gradscope.reports.bars import ASCII, Panel, Scale, draw_panels, sparkline
from gradscope.reports.profile import depth_profile


def panel(rms, title="", **more):
    rms = np.asarray(rms, dtype=float)
    trace = trace_of(output_grad_rms=[rms], output_grad_nonfinite_count=[np.where(np.isnan(rms), 3.0, 0.0)])
    return Panel(Text(title), depth_profile([trace], Quantity.OUTPUT_GRAD), **more)


def drawn(*panels, width=80, **more):
    return [line.plain for line in draw_panels(panels, width, **more)]


def bars(lines):
    return [line.split("┤" if "┤" in line else "│", 1)[1] for line in lines if "┤" in line or "│" in line]


@pytest.mark.parametrize("layers", [1, 2, 5, 31, 77, 78, 200, 500])
@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_wider_than_the_terminal(layers, width):
    charts = [panel(0.9 ** np.arange(layers), f"variant {i}", note="last to first ×1.1e-21") for i in range(3)]
    assert max(map(len, drawn(*charts, width=width))) <= width


def test_a_tenth_is_a_row_lower_where_a_row_is_a_decade():
    top, second, *_ = bars(drawn(panel([1e-2, 1e-1, 1.0, 1e-3])))
    assert top.split(" ")[0] == ""
    assert top.strip() == "██"
    assert second.strip() == "██ ██"


def test_a_healthy_profile_looks_flat():
    assert Scale.covering([panel([1.0, 1.1, 0.9]).profile]).rows == 4
    assert len({row.strip() for row in bars(drawn(panel([0.5, 0.55, 0.45])))[1:]}) == 1


def test_the_axis_spans_every_panel_and_the_smallest_value_still_shows():
    scale = Scale.covering([panel([1e-30, 1.0]).profile, panel([1.0, 1e3]).profile])
    assert scale.low + scale.rows * scale.per_row >= 3
    assert scale.low < -30
    lines = drawn(panel([1e-30, 1.0], "a"), panel([1.0, 1e3], "b"))
    assert bars(lines)[-1][0] != " "


def test_a_sparkline_of_a_gradient_that_ends_in_zeros_stays_logarithmic():
    assert sparkline([0.0, 0.0, 1e-8, 1e-4, 1.0], 5).plain == "00▁▅█"
    assert sparkline([0.0, 0.5, 1.0], 3).plain == "▁▅█"


@pytest.mark.parametrize("where", [0, 137, 499])
def test_one_broken_layer_among_500_stays_visible(where):
    rms = np.ones(500)
    rms[where] = np.nan
    lines = drawn(panel(rms))
    assert sum(line.count("✗") for line in lines) == 2  # in the axis and in the legend
    assert "✗ NaN or Inf" in lines[-1]


def test_a_layer_that_was_never_finite_is_shaded_from_bottom_to_top():
    assert all("░" in row for row in bars(drawn(panel([1.0, np.nan, 1.0]))))


def test_a_bar_has_the_colour_of_its_height_and_red_where_it_is_broken():
    def colours(rms):
        lines = list(draw_panels([panel(rms)], 80))
        floor = [line for line in lines if "█" in line.plain][-1]
        return [str(span.style) for span in floor.spans if "█" in floor.plain[span.start : span.end]]

    small, large, again = colours([1e-3, 1.0, 1.0])
    assert small != large == again
    assert colours([1.0, 1.0, 1.0])[0] == large


def test_many_layers_in_a_column_show_their_range():
    rms = np.where(np.arange(400) % 2, 1.0, 1e-4)
    rows = bars(drawn(panel(rms), width=60))
    assert set(rows[0].strip()) == {"░"}
    assert rows[-1].startswith("█") or rows[-1].strip() != ""


def test_exact_zero_is_marked_and_has_no_bar():
    lines = drawn(panel([1.0, 0.0, 1.0]))
    assert "0 exactly zero" in lines[-1]
    assert all(row[3:5].strip() == "" for row in bars(lines))


def test_the_layer_that_a_finding_names_is_marked():
    *_, pointers, names, legend = drawn(panel([1.0, np.nan, 1.0], flagged=frozenset({"1"})))
    assert pointers.index("▲▲") == pointers.index("▲")
    assert names[pointers.index("▲") - 3] == "0"
    assert legend.strip() == "✗ NaN or Inf   ▲ a finding points here"


def test_nothing_but_zeros_can_be_drawn():
    assert any("0" in line for line in drawn(panel([0.0, 0.0, 0.0])))


def test_five_panels_stand_evenly():
    titles = [line.split() for line in drawn(*(panel(np.ones(31), f"v{i}") for i in range(5)), width=140)]
    assert ["v0", "v1", "v2"] in titles
    assert ["v3", "v4"] in titles


def test_ascii_has_no_other_characters():
    rms = np.r_[np.nan, 0.0, 0.3 ** np.arange(500)]
    lines = drawn(panel(rms, flagged=frozenset({"9"})), glyphs=ASCII)
    assert all(line.isascii() for line in lines)
    assert any("X" in line for line in lines)


def test_a_sparkline_falls_with_the_series_and_marks_nan():
    line = sparkline([4.0, 3.0, 2.0, 1.0, np.nan], 10).plain
    assert line[0] == "█"
    assert line[3] == "▁"
    assert line[4] == "✗"


def test_noise_on_a_plateau_looks_flat():
    assert len(set(sparkline([2.30, 2.31, 2.29, 2.30], 4).plain)) <= 3
    assert len(set(sparkline([5.0, 5.0], 4).plain)) == 1


def test_a_long_sparkline_is_no_longer_than_asked():
    assert len(sparkline(np.arange(1000.0), 30)) == 30
    assert sparkline([], 30).plain == ""

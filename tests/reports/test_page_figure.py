"""How every figure of a page looks."""

import pytest
from bokeh.models import WheelZoomTool
from bokeh.models.annotations import Title

from gradscope.reports.page_figure import COLOURS, NEUTRAL, plain_figure

GROUNDS = {"light": "#ffffff", "dark": "#14171b"}  # of page.css


def luminance(colour):
    """As WCAG 2.1 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ground", GROUNDS.values(), ids=GROUNDS)
def test_texts_and_lines_read_on_both_grounds(ground):
    assert contrast(NEUTRAL, ground) > 4
    assert min(contrast(colour, ground) for colour in COLOURS) > 2


def test_the_page_s_ground_is_seen_through_it():
    made = plain_figure(height=200, x_label="step", y_label="loss")
    assert made.background_fill_alpha == made.border_fill_alpha == 0
    assert {axis.axis_label_text_color for axis in made.axis} == {NEUTRAL}
    assert (made.xaxis.axis_label, made.yaxis.axis_label) == ("step", "loss")


def test_a_page_is_scrolled_through_and_not_zoomed_into():
    made = plain_figure(height=200, x_label="step", y_label="loss")
    assert any(isinstance(tool, WheelZoomTool) for tool in made.tools)
    assert made.toolbar.active_scroll is None
    assert made.toolbar.active_drag is None


def test_a_title_stands_where_there_is_one():
    named = plain_figure(height=200, x_label="step", y_label="loss", title="Loss")
    assert isinstance(named.title, Title)
    assert (named.title.text, named.title.text_color) == ("Loss", NEUTRAL)
    assert not getattr(plain_figure(height=200, x_label="step", y_label="loss").title, "text", "")

"""A difference at a terminal."""

from dataclasses import replace

from differences import everything, nothing
from examples import printed

from gradscope.reports.difference_text import MOST_LAYERS, DifferenceView


def test_all_of_it(assert_golden):
    assert_golden("difference-100.txt", printed(DifferenceView(everything()), width=100))


def test_a_run_and_itself(assert_golden):
    assert_golden("difference-none-80.txt", printed(DifferenceView(nothing()), width=80))


def test_nothing_is_wider_than_the_terminal():
    for width in (60, 80, 120):
        shown = printed(DifferenceView(everything("a.very.long.name." * 6)), width=width)
        assert max(map(len, shown.splitlines())) <= width


def test_a_terminal_without_unicode_has_a_plain_heading():
    assert "━" not in printed(DifferenceView(nothing()), ascii_only=True).encode("ascii", "replace").decode()


def test_what_would_move_the_cursor_is_shown_as_text():
    assert "\x1b" not in printed(DifferenceView(everything("\x1b[2Jx")))


def test_of_many_layers_the_first_are_shown_and_the_others_counted():
    found = everything()
    gain = next(change for change in found.changes if change.measure.value == "gain")
    many = replace(gain, module="layer")
    compared = replace(found.compared, changes=(many,) * (MOST_LAYERS + 3))
    shown = printed(DifferenceView(replace(found, compared=compared)))
    assert "and 3 more layers; --format json has all" in shown
    assert shown.count("layer  ×") == MOST_LAYERS

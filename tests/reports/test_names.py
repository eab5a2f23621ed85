"""Names of modules in a table."""

import pytest
from rich.cells import cell_len

from gradscope.reports.names import on_one_line, shortened


def test_a_line_break_is_written_out():
    assert on_one_line("line\nbreak\x1b[31m") == r"line\nbreak\x1b[31m"
    assert on_one_line("blocks.0") == "blocks.0"


@pytest.mark.parametrize("name", ["x" * 120, "x" * 119 + "σ", "火" * 60, "a"])
@pytest.mark.parametrize("width", [4, 9, 32])
def test_what_is_too_long_lacks_its_middle(name, width):
    short = shortened(name, width)
    assert cell_len(short) <= width
    assert short == name or (short[-1] == name[-1] and "…" in short)


def test_what_fits_is_left():
    assert shortened("blocks.0.fc", 11) == "blocks.0.fc"
    assert shortened("blocks.0.attention.out", 11) == "block…n.out"

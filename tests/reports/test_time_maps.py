"""Maps of time over the steps: nothing sick is lost when they shrink."""

import base64
import zlib

import numpy as np
import pytest
from examples import recurrent

from gradscope.reports.codes import NONFINITE
from gradscope.reports.passage import passages
from gradscope.reports.time_maps import MOST_COLUMNS, MOST_ROWS, time_map


def codes(made):
    return np.frombuffer(zlib.decompress(base64.b64decode(made.grid["codes"])), "<u2").reshape(made.grid["shape"])


def test_a_small_map_has_a_cell_for_each_step_and_position():
    (passage,) = passages(recurrent(0.8, steps=10, length=40))
    made = time_map(passage, "m")
    grid = codes(made)
    assert grid.shape == (40, 10)
    assert made.shrunk == ""
    read = 10 ** (made.grid["low"] + (grid[grid > 2] - 3) * made.grid["step"])
    assert read == pytest.approx(passage.rms.T[grid > 2], rel=2e-3)


def test_one_broken_cell_among_thousands_is_in_the_shrunk_map_and_marked():
    steps, length = MOST_COLUMNS + 150, MOST_ROWS + 30
    gain = np.full(steps, 0.9)
    (passage,) = passages(recurrent(gain, steps=steps, length=length))
    passage.nonfinite[137, 55] = True
    made = time_map(passage, "m")
    grid = codes(made)
    assert grid.shape == (MOST_ROWS, MOST_COLUMNS)
    row = next(i for i in range(MOST_ROWS) if (i + 1) * length // MOST_ROWS > 55)
    column = next(i for i in range(MOST_COLUMNS) if (i + 1) * steps // MOST_COLUMNS > 137)
    assert np.argwhere(grid == NONFINITE).tolist() == [[row, column]]
    marks = made.figure.renderers[2].data_source.data
    assert (list(marks["x"]), list(marks["y"])) == ([column], [row])
    assert made.shrunk == "up to 2 steps × up to 2 positions"


def test_the_page_does_not_carry_numbers_twice():
    (passage,) = passages(recurrent(0.8))
    source = time_map(passage, "m").figure.renderers[0].data_source
    assert all(values[0].size == 1 for values in source.data.values())

"""Numbers that are written as 16 bits come back, and so do zero, NaN and never observed."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradscope.reports.codes import NONFINITE, UNSEEN, ZERO, encoded


def read(grid):
    """As page/codes.js does it: inf for NaN or Inf, NaN for never observed."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(grid["codes"])), "<u2").reshape(grid["shape"])
    values = 10.0 ** (grid["low"] + (codes.astype(float) - 3) * grid["step"])
    for code, value in ((UNSEEN, np.nan), (ZERO, 0.0), (NONFINITE, np.inf)):
        values[codes == code] = value
    return values


@given(arrays(float, st.tuples(st.integers(1, 5), st.integers(0, 9)), elements=st.floats(1e-38, 3e38)))
def test_three_digits_come_back(values):
    yes = np.ones(values.shape, bool)
    assert read(encoded(values, ~yes, yes)) == pytest.approx(values, rel=1.5e-3)


def test_what_has_no_logarithm_comes_back():
    values = np.array([[0.0, 1.0, np.nan, np.nan, np.inf, 7.0]])
    nonfinite = np.array([[False, False, True, False, False, True]])
    seen = np.array([[True, True, True, False, True, True]])
    assert np.array_equal(
        read(encoded(values, nonfinite, seen)), [[0, 1, np.inf, np.nan, np.inf, np.inf]], equal_nan=True
    )


def test_one_number_throughout_comes_back_exactly():
    yes = np.ones((2, 2), bool)
    assert read(encoded(np.full((2, 2), 100.0), ~yes, yes)).tolist() == [[100, 100], [100, 100]]

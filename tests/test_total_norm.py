"""The total norms against a sum over the parameters, one by one."""

import math

import numpy as np
import pytest

from gradscope.records import COLUMN, STATISTICS, Quantity
from gradscope.total_norm import TotalNorms

SITES = {
    ("a", Quantity.WEIGHT_GRAD, "weight"): 3.0,
    ("b", Quantity.WEIGHT_GRAD, "weight"): 4.0,
    ("frozen later", Quantity.WEIGHT_GRAD, "weight"): 12.0,
    ("a", Quantity.APPLIED_GRAD, "weight"): 0.3,
    ("b", Quantity.APPLIED_GRAD, "weight"): 0.4,
    ("a", Quantity.OUTPUT_GRAD, ""): 100.0,
}


def totals(observed: set[int], *, nonfinite: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    keys = [*SITES, ("", Quantity.TOTAL_NORM, "raw"), ("", Quantity.TOTAL_NORM, "applied")]
    values = np.full((len(keys), len(STATISTICS)), np.nan, dtype=np.float32)
    for i, norm in enumerate(SITES.values()):
        if i in observed:
            values[i, [COLUMN["numel"], COLUMN["l2_norm"], COLUMN["nonfinite_count"]]] = 10, norm, i == nonfinite
    TotalNorms({key: i for i, key in enumerate(keys)}).add_to(values)
    return values[-2], values[-1]


def test_where_nothing_was_applied_every_gradient_counts():
    raw, applied = totals({0, 1, 2, 5})
    assert raw[COLUMN["l2_norm"]] == pytest.approx(math.sqrt(3**2 + 4**2 + 12**2))
    assert raw[COLUMN["numel"]] == 30
    assert np.isnan(applied).all()


def test_both_are_over_the_parameters_that_were_moved():
    raw, applied = totals({0, 1, 2, 3, 4, 5})
    assert raw[COLUMN["l2_norm"]] == pytest.approx(5.0)
    assert applied[COLUMN["l2_norm"]] == pytest.approx(0.5)
    assert raw[COLUMN["numel"]] == applied[COLUMN["numel"]] == 20


def test_what_is_not_finite_is_counted():
    assert totals({0, 1}, nonfinite=1)[0][COLUMN["nonfinite_count"]] == 1


def test_a_step_without_gradients_has_no_total():
    assert all(np.isnan(row).all() for row in totals(set()))

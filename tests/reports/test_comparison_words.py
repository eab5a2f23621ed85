"""What is told of a comparison, whoever shows it."""

from dataclasses import replace

import numpy as np
import pytest
from examples import HEALTHY, SICK, comparison, diagnosis, finding, variant

from gradscope.reports.comparison_words import (
    alike,
    codes_of,
    exact,
    lacking,
    lesson_parts,
    numbers_of,
    right_and_wrong,
    without_finding,
)


def test_codes_say_whether_they_had_to_show_and_with_how_many_seeds():
    one = variant("a", 0.25, SICK, seeds=2, expect=frozenset({"GS101"}), forbid=frozenset({"GS302"}))
    one = replace(one, runs=(one.runs[0], replace(one.runs[1], diagnosis=diagnosis(finding()))))
    found = {share.code: (share.text, share.expected, share.forbidden) for share in codes_of(one)}
    assert found == {"GS101": ("GS101", True, False), "GS302": ("GS302 1/2", False, True)}
    assert right_and_wrong(one) == (1, 1)


def test_numbers_are_the_median_and_the_range_of_the_seeds():
    columns = {column.head: column.cells for column in numbers_of(comparison(seeds=3))}
    assert list(columns) == ["gain per layer", "gradient decades", "saturated fraction", "accuracy", "loss"]
    gains = 0.25 * np.array([1, 1.01, 1.02])
    cell = columns["gain per layer"][0]
    assert (cell.middle, cell.spread) == (f"{np.median(gains):.3f}", f"{gains.min():.3f}…{gains.max():.3f}")
    assert columns["saturated fraction"][1].middle == ""
    assert columns["loss"][1].middle == "2.3→0.089"


def test_a_loss_that_ends_in_nan_has_diverged():
    one = variant("a", 0.9, HEALTHY)
    one = replace(one, runs=(replace(one.runs[0], loss_last=float("nan")),))
    (cell,) = numbers_of(comparison(variants=(one,)))[-1].cells
    assert cell.diverged
    assert cell.middle == "2.3→nan"


def test_metrics_in_the_lesson_are_called_as_their_columns():
    said = replace(comparison(), lesson="See `gain_per_layer`: small.")
    assert list(lesson_parts(said)) == [("See ", False), ("gain per layer", True), (": small.", False)]


def test_findings_with_one_cause_stand_together():
    both = comparison(variants=(variant("a", 0.25, SICK), variant("b", 0.25, SICK), variant("c", 0.9, HEALTHY)))
    (cases,) = alike(both)
    assert [case.variant for case in cases] == ["a", "b"]
    assert cases[0].hence == ("GS302",)
    assert without_finding(both) == ["c"]


def test_what_was_not_judged_is_told_by_what_was_missing():
    assert lacking(comparison()) == [
        "update-too-small, update-too-large: the trace holds no weight_update (sigmoid)",
        "symmetric-init: the trace holds no weight (sigmoid)",
    ]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("word", ["word"]),
        (-1 / 3, ["−0.33"]),
        (-1e-9, ["0.00"]),
        (float("nan"), ["–"]),
        ((1.0, -2.5), ["1.00", "−2.50"]),
    ],
)
def test_exact_numbers(cell, written):
    assert exact(cell, 2) == written

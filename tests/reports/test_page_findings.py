"""The lines of the table of findings."""

import numpy as np
import pytest
from examples import HEALTHY, SICK, finding, network

from gradscope.findings import Role, Severity
from gradscope.reports.page_findings import findings_section, row


def test_every_finding_has_a_line_in_the_order_of_the_diagnosis():
    section = findings_section(network(0.5), SICK)
    assert [row.title for row in section.context["rows"]] == [f.title for f in SICK]
    assert section.context["counts"] == {"error": 1, "warning": 6}


def test_without_a_finding_there_is_no_table():
    assert findings_section(network(0.9), HEALTHY) is None


def test_one_finding_of_many_modules_is_found_by_each_name():
    names = tuple(f"layers.{i}" for i in range(5))
    line = row(finding(module="layers.0", alike=names))
    assert line.module == "layers.0, layers.1, layers.2 and 2 more"
    assert line.modules.split("\n") == list(names)
    assert line.shows == "layers.0"


def test_the_model_is_no_layer_of_the_map():
    line = row(finding(module=""))
    assert (line.module, line.shows) == ("(model)", "")


@pytest.mark.parametrize(
    ("measured", "key"),
    [(0.25, "0.25"), (np.float32(0.5), "0.5"), (np.inf, "Infinity"), (-np.inf, "-Infinity"), (np.nan, "nan")],
)
def test_numbers_sort_as_javascript_reads_them(measured, key):
    assert row(finding(measured=measured)).measured_key == key


def test_role_place_in_time_and_limit():
    line = row(finding(role=Role.SYMPTOM, caused_by=("a", "GS302"), time=7, severity=Severity.INFO))
    assert line.role == "follows from GS302 at a"
    assert line.span == "0 to 9, time 7"
    assert line.measured == "0.25 (0.5) gain per layer"
    assert line.rank == 0


@pytest.mark.parametrize(
    ("measured", "shown"), [(2048.0, "2048"), (123456.0, "123456"), (0.12345, "0.123"), (3.0, "3"), (np.inf, "inf")]
)
def test_a_count_has_all_its_digits(measured, shown):
    assert row(finding(measured=measured)).measured == f"{shown} (0.5) gain per layer"

from io import StringIO

import pytest
from examples import HEALTHY, network

from gradscope import plugins
from gradscope.reports import REPORTS
from gradscope.reports.base import Report, write_text


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_every_report_keeps_the_protocol(report, tmp_path):
    assert isinstance(report, Report)
    assert report.suffix.startswith(".")
    assert report.about
    paths = report.write(network(0.5), HEALTHY, tmp_path)
    assert paths
    assert all(path.parent == tmp_path and path.suffix == report.suffix for path in paths)
    if report.to_stream:
        stream = StringIO()
        assert report.write(network(0.5), HEALTHY, stream) == ()
        assert stream.getvalue()


def test_the_built_in_reports_come_through_the_entry_point():
    assert plugins.load("reports")[: len(REPORTS)] == REPORTS


def test_text_is_utf_8_with_the_line_ends_it_was_given(tmp_path):
    (path,) = write_text("∂\n", tmp_path / "a.txt", "unused")
    assert path.read_bytes() == "∂\n".encode()

"""The reports, one file each. `REPORTS` is what gradscope offers through its own entry point."""

from gradscope.reports.base import Report
from gradscope.reports.csvfile import CsvFile
from gradscope.reports.images import Images
from gradscope.reports.jsonfile import JsonFile
from gradscope.reports.terminal import Terminal

REPORTS: tuple[Report, ...] = (
    Terminal(),
    JsonFile(),
    CsvFile(),
    Images("png", "figures as pixels"),
    Images("svg", "figures as vectors"),
)

__all__ = ["REPORTS", "Report"]

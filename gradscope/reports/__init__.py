"""The reports, one file each. `REPORTS` is what gradscope offers through its own entry point."""

from gradscope.reports.base import Report
from gradscope.reports.csvfile import CsvFile
from gradscope.reports.github import GitHub
from gradscope.reports.gitlab import GitLab
from gradscope.reports.html import Html
from gradscope.reports.images import Images
from gradscope.reports.jsonfile import JsonFile
from gradscope.reports.junit import JUnit
from gradscope.reports.markdown import Markdown
from gradscope.reports.sarif import Sarif
from gradscope.reports.terminal import Terminal

REPORTS: tuple[Report, ...] = (
    Terminal(),
    JsonFile(),
    JUnit(),
    Sarif(),
    GitHub(),
    GitLab(),
    Markdown(),
    CsvFile(),
    Html(),
    Images("png", "figures as pixels"),
    Images("svg", "figures as vectors"),
)

__all__ = ["REPORTS", "Report"]

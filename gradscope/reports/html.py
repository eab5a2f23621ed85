"""The report to look at: one file that opens in any browser. Bokeh and Jinja are imported only when one is written."""

from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import Diagnosis
from gradscope.reports.base import Destination, write_text
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True)
class Html:
    """Verdict, map of the layers over the steps, sequences, budget, theory and what was not seen, in one page."""

    name: str = "html"
    suffix: str = ".html"
    about: str = "a page to look at: verdict, map, budget, theory"
    to_stream: bool = True

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes the page, as report.html into a folder."""
        from gradscope.reports.trace_page import trace_page

        return write_text(trace_page(trace, diagnosis), destination, "report.html")

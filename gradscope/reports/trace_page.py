"""The page of one trace: its sections, in the order in which a reader needs them."""

from gradscope.findings import Diagnosis
from gradscope.reports.page import Section, page_of
from gradscope.reports.page_budget import budget_section
from gradscope.reports.page_findings import findings_section
from gradscope.reports.page_map import map_section
from gradscope.reports.page_run import run_section
from gradscope.reports.page_theory import theory_section
from gradscope.reports.page_time import time_section
from gradscope.reports.page_unseen import unseen_section
from gradscope.reports.page_verdict import verdict_section
from gradscope.trace import Trace


def trace_page(trace: Trace, diagnosis: Diagnosis) -> str:
    """The whole document."""
    made: tuple[Section | None, ...] = (
        verdict_section(trace, diagnosis),
        map_section(trace, diagnosis),
        time_section(trace, diagnosis),
        findings_section(trace, diagnosis),
        budget_section(trace, diagnosis),
        theory_section(trace, diagnosis),
        unseen_section(trace, diagnosis),
        run_section(trace, diagnosis),
    )
    return page_of(str(trace.meta.get("model") or "a recording"), [section for section in made if section is not None])

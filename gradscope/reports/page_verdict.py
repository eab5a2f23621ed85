"""The top of a page: healthy or not, the roots in order with cause and remedy, their symptoms folded."""

from gradscope.findings import Diagnosis
from gradscope.reports.diagnosis_text import verdict
from gradscope.reports.page import Section
from gradscope.reports.verdict_words import heads
from gradscope.trace import Trace


def verdict_section(trace: Trace, diagnosis: Diagnosis) -> Section:
    """What a person reads first."""
    return Section(
        anchor="verdict",
        title="Verdict",
        template="verdict.html",
        context={"verdict": verdict(diagnosis).plain, "heads": list(heads(diagnosis))},
    )

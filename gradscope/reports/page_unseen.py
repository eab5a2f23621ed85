"""What a page cannot vouch for: parts of the model that were not seen, rules that could not judge, what broke."""

from gradscope.findings import Diagnosis
from gradscope.reports.diagnosis_text import by_reason
from gradscope.reports.page import Section
from gradscope.reports.run_words import blind_spots, events
from gradscope.trace import Trace


def unseen_section(trace: Trace, diagnosis: Diagnosis) -> Section:
    """The section; where there is nothing to tell it says that."""
    return Section(
        anchor="unseen",
        title="Not seen, not judged",
        template="unseen.html",
        context={
            "unseen": by_reason(blind_spots(trace)),
            "unjudged": by_reason((item.rule, item.reason) for item in diagnosis.not_judged),
            "events": list(events(trace)),
        },
    )

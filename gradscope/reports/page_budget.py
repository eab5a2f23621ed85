"""Where the decades go, as a page shows it: the lines of `budget_text` as a tree that unfolds, with a bar for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradscope.budget import budget_of, signed
from gradscope.findings import Diagnosis
from gradscope.reports.budget_text import (
    BESIDE,
    Line,
    decades_of,
    kind_lines,
    module_lines,
    no_budget,
    what_it_counts,
)
from gradscope.reports.page import Section
from gradscope.trace import Trace

MOST_LINES = 400  # a page can fold what a terminal cannot show
OPEN_LINES = 40  # of a tree that is unfolded when the page opens


@dataclass(slots=True, kw_only=True)
class Branch:
    """A line, and those that stand under it.

    Attributes:
        width: Of its bar, in percent of half the column: losses to the left of the middle, gains to the right.
        lost: Whether the gradient shrinks there.
        counts: Whether it is part of the sum.
        open: Whether it is unfolded at first.
    """

    name: str
    what: str
    gain: str
    decades: str
    width: float
    lost: bool
    counts: bool
    note: str
    open: bool
    inside: list["Branch"] = field(default_factory=list)


def budget_section(trace: Trace, _: Diagnosis) -> Section:
    """The section; without a budget it says why there is none."""
    budget = budget_of(trace)
    if budget is None:
        return _section("Gradient budget", {"reason": f"{no_budget(trace)}."})
    modules = module_lines(budget, most=MOST_LINES)
    return _section(
        f"Gradient budget: {signed(budget.decades)} decades",
        {
            "reason": "",
            "sentence": budget.sentence,
            "about": what_it_counts(budget),
            "kinds": tree(kind_lines(budget)),
            "modules": tree(modules),
            "one_way": len({line.decades < 0 for line in modules if line.decades}) < 2,
            "beside": BESIDE if any(not line.counts for line in modules) else "",
        },
    )


def tree(lines: Sequence[Line]) -> list[Branch]:
    """The lines by their levels, one within the other."""
    largest = max((abs(line.decades) for line in lines if not math.isnan(line.decades)), default=0.0)
    roots: list[Branch] = []
    path: list[Branch] = []
    for line in lines:
        branch = _branch(line, largest, unfolded=len(lines) <= OPEN_LINES)
        del path[line.level :]
        (path[-1].inside if path else roots).append(branch)
        path.append(branch)
    return roots


def _branch(line: Line, largest: float, *, unfolded: bool) -> Branch:
    known = not math.isnan(line.decades) and largest > 0
    return Branch(
        name=line.name,
        what=line.what,
        gain=line.gain,
        decades=decades_of(line),
        width=round(100 * abs(line.decades) / largest, 1) if known else 0.0,
        lost=line.decades < 0,
        counts=line.counts,
        note=line.note,
        open=unfolded or line.level == 0,
    )


def _section(title: str, context: dict[str, object]) -> Section:
    return Section(anchor="budget", title=title, template="budget.html", context=context)

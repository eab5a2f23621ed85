"""What `gradscope report --view` can show of a trace instead of its findings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType

from gradscope.errors import UsageError, nearest
from gradscope.findings import Json
from gradscope.reports.base import Destination, write_text
from gradscope.reports.budget_text import BudgetView, budget_document
from gradscope.reports.gate_text import TEXT_FILE_WIDTH, plain
from gradscope.reports.jsonfile import as_json
from gradscope.reports.theory_text import TheoryView, theory_document
from gradscope.trace import Trace

FINDINGS = "findings"
FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class View:
    """One of them.

    Attributes:
        name: What stands after `--view`.
        shown: What rich prints.
        document: The same as JSON types.
    """

    name: str
    shown: Callable[[Trace], RenderableType]
    document: Callable[[Trace], Json]

    def write(self, trace: Trace, form: str, destination: Destination) -> tuple[Path, ...]:
        """Writes it as text or as JSON; the files it wrote."""
        if form == "json":
            return write_text(as_json(self.document(trace)), destination, f"{self.name}.json")
        if isinstance(destination, Path):
            return write_text(plain(self.shown(trace), TEXT_FILE_WIDTH), destination, f"{self.name}.txt")
        Console(file=destination, highlight=False).print(self.shown(trace))
        return ()


VIEWS: tuple[View, ...] = (
    View("budget", BudgetView, budget_document),
    View("theory", TheoryView, theory_document),
)


def view_of(name: str, form: str) -> View | None:
    """The view of that name; None stands for the findings, which every format shows.

    Raises:
        UsageError: There is none of that name, or it cannot be written in this format.
    """
    names = (FINDINGS, *(view.name for view in VIEWS))
    if name not in names:
        raise UsageError(f"`--view {name}` is none of {', '.join(names)}{nearest(name, names)}")
    if name != FINDINGS and form not in FORMATS:
        raise UsageError(f"`--view {name}` is written as text or json, not as {form}.")
    return next((view for view in VIEWS if view.name == name), None)

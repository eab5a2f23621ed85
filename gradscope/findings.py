"""What the rules say of a trace: findings, what could not be judged, and the diagnosis that holds both."""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING

from gradscope.records import Site

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

    from gradscope.budget import Budget

DIAGNOSIS_SCHEMA = "gradscope/diagnosis/1"

Json = Mapping[str, "Json"] | list["Json"] | str | int | float | bool | None


class Severity(StrEnum):
    """How much a finding costs.

    `error`: part of the model cannot learn, or the run will die; `warning`: it learns markedly worse than it could;
    `info`: worth knowing.
    """

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)

    def reaches(self, threshold: "Severity") -> bool:
        """Whether this is at least as severe as `threshold`."""
        return self.rank >= threshold.rank


class Role(StrEnum):
    """Whether a finding is a cause or follows from another finding."""

    ROOT = "root"
    SYMPTOM = "symptom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One pathology at one place.

    Attributes:
        code: "GS101".
        pathology: The rule's name, "vanishing-gradient".
        severity: From the consequence for learning, not from the size of a number.
        module: The module that is to be looked at; "" is the model as a whole.
        sites: Where the evidence was measured.
        first_step: First recorded step that shows it.
        last_step: Last recorded step that shows it.
        time: Position in the sequence, where the fault has one.
        measured: The number that was judged; it can be found in, or computed from, the trace.
        threshold: What it was judged against.
        unit: Of both.
        message: What, where and since when, in numbers.
        cause: Why, as far as the trace shows.
        remedy: What to change in this model.
        role: Root or symptom.
        caused_by: (module, code) of the root that explains a symptom.
        alike: The modules that are sick in the same way, where one finding stands for several; it is not among the
            keys of the finding as JSON.
    """

    code: str
    pathology: str
    severity: Severity
    module: str
    sites: tuple[Site, ...]
    first_step: int
    last_step: int
    measured: float
    threshold: float
    unit: str
    message: str
    cause: str
    remedy: str
    time: int | None = None
    role: Role = Role.ROOT
    caused_by: tuple[str, str] | None = None
    alike: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules that it speaks of: `alike`, or `module` alone."""
        return self.alike or (self.module,)

    @property
    def title(self) -> str:
        """``GS301 dead-units``; what has no code of its own is called by its name alone."""
        return self.code if self.code == self.pathology else f"{self.code} {self.pathology}"

    def to_dict(self) -> dict[str, Json]:
        """The finding as JSON types; NaN and infinities become the strings "nan", "inf", "-inf"."""
        values = {name: getattr(self, name) for name in _KEYS}
        values["sites"] = [str(site) for site in self.sites]
        values["severity"], values["role"] = self.severity.value, self.role.value
        values["caused_by"] = list(self.caused_by) if self.caused_by else None
        return {name: finite(value) for name, value in values.items()}


_KEYS = tuple(f.name for f in fields(Finding) if f.name != "alike")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """A rule that lacked the data to judge, and what was missing."""

    rule: str
    reason: str


def finite(value: Json) -> Json:
    """`value` with every NaN or infinite number written as a string, so that it is valid JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    numpy = sys.modules.get("numpy")  # not imported for it: `gradscope attach` loads nothing ahead of the script
    if numpy is not None and isinstance(value, numpy.generic):  # the natural type of a number that a rule has computed
        return finite(value.item())
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings of a trace, roots first and the worst first among them, and the rules that could not judge.

    Printing it with rich shows the roots with their symptoms folded under them.

    Attributes:
        findings: What the rules have found.
        not_judged: The rules that lacked something.
        steps: How many were recorded.
        sites: How many there are.
        budget: Where the gradient's decades go between the last module and the first; None where that is not known.
    """

    findings: tuple[Finding, ...]
    not_judged: tuple[Unjudged, ...]
    steps: int
    sites: int
    budget: "Budget | None" = field(default=None, repr=False, compare=False)

    @property
    def worst(self) -> Severity | None:
        """The highest severity found, None where there is no finding."""
        return max((finding.severity for finding in self.findings), key=lambda s: s.rank, default=None)

    @property
    def ok(self) -> bool:
        """No finding of severity error, in at least one recorded step. What could not be judged is in `not_judged`."""
        return self.steps > 0 and self.worst is not Severity.ERROR

    @property
    def roots(self) -> tuple[Finding, ...]:
        """Findings that no other finding explains."""
        return tuple(finding for finding in self.findings if finding.role is Role.ROOT)

    def symptoms_of(self, root: Finding) -> tuple[Finding, ...]:
        """Findings that `root` explains."""
        return tuple(f for f in self.findings if f.caused_by == (root.module, root.code) and f.role is Role.SYMPTOM)

    @property
    def codes(self) -> frozenset[str]:
        """The codes of all findings of severity warning or error."""
        return frozenset(f.code for f in self.findings if f.severity is not Severity.INFO)

    def to_dict(self) -> dict[str, Json]:
        """The diagnosis in the form of `gradscope report --format json`."""
        return {
            "schema": DIAGNOSIS_SCHEMA,
            "ok": self.ok,
            "findings": [finding.to_dict() for finding in self.findings],
            "not_judged": [{"rule": item.rule, "reason": item.reason} for item in self.not_judged],
            "steps": self.steps,
            "sites": self.sites,
            **({} if self.budget is None else {"budget": finite(self.budget.to_dict())}),
        }

    def to_frame(self) -> "pd.DataFrame":
        """One row for each finding; the columns are the keys of `Finding.to_dict`."""
        import pandas as pd

        return pd.DataFrame([finding.to_dict() for finding in self.findings], columns=list(_KEYS))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return True  # an empty diagnosis is a diagnosis; ask `.ok` or `.findings`

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from gradscope.reports.diagnosis_text import diagnosis_lines  # how a diagnosis looks is the reports' business

        yield from diagnosis_lines(self)

    def _repr_html_(self) -> str:
        from gradscope.reports.notebook import diagnosis_html

        return diagnosis_html(self)

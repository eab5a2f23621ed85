"""What differs between two recorded runs: findings, layers, the gradient along the depth. Data, and no torch.

    difference(Recorded("main.h5", trace, diagnosis), Recorded("branch.h5", trace, diagnosis))

A is what was, B what is. Names are A's: what B calls otherwise is called as in A, and its own name stands beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradscope.alignment import Alignment, align
from gradscope.changes import Change, Compared, Measure, compare, overlap
from gradscope.errors import TraceError
from gradscope.findings import Diagnosis, Finding, Json, Severity, finite
from gradscope.moves import Match, matched
from gradscope.slopes import Place, places_of
from gradscope.trace import Trace

DIFFERENCE_SCHEMA = "gradscope/diff/1"


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A run.

    Attributes:
        name: By which a person knows it, such as its file.
        trace: What was recorded.
        diagnosis: What the rules say of it.
    """

    name: str
    trace: Trace
    diagnosis: Diagnosis


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """Of B against A.

    Attributes:
        a: What was.
        b: What is.
        alignment: Which module is which.
        appeared: Findings of B that A lacks.
        vanished: Findings of A that B lacks.
        matches: Findings of both.
        compared: What the layers do, and the changes that are marked among it.
        first: First step of those over which the layers are compared.
        last: Last of them.
        shared: Whether both runs have covered those; else they are all that either has.
        places: The gradient along the depth, of both.
    """

    a: Recorded
    b: Recorded
    alignment: Alignment
    appeared: tuple[Finding, ...]
    vanished: tuple[Finding, ...]
    matches: tuple[Match, ...]
    compared: Compared
    first: int
    last: int
    shared: bool
    places: tuple[Place, ...]

    @property
    def moved(self) -> tuple[Match, ...]:
        """Findings of both that are at another module now, or began at another time."""
        return tuple(match for match in self.matches if match.elsewhere or match.at_another_time)

    @property
    def regraded(self) -> tuple[Match, ...]:
        """Findings of both whose severity is another."""
        return tuple(match for match in self.matches if match.a.severity is not match.b.severity)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What layers do markedly otherwise, the largest change of each measure first."""
        marked = [change for change in self.compared.changes if change.marked]
        return tuple(sorted(marked, key=lambda c: (list(Measure).index(c.measure), -abs(c.by))))

    @property
    def is_empty(self) -> bool:
        """Whether nothing of note differs."""
        uneven = self.alignment.only_a or self.alignment.only_b or self.alignment.retyped
        lists = (self.appeared, self.vanished, self.moved, self.regraded, self.changes, uneven)
        return not any((*lists, self.compared.only_a, self.compared.only_b))

    def new(self, severity: Severity) -> tuple[Finding, ...]:
        """What reaches `severity` in B and has nothing of its kind in A that does; a finding that moved is not new."""
        worse = [m.b for m in self.matches if m.b.severity.reaches(severity) and not m.a.severity.reaches(severity)]
        return tuple(f for f in (*self.appeared, *worse) if f.severity.reaches(severity))

    def unjudged(self, finding: Finding, *, other: Recorded) -> str:
        """Why the rule of `finding` could not judge the `other` run; "" where it could."""
        return next((x.reason for x in other.diagnosis.not_judged if x.rule == finding.pathology), "")

    def remark(self, finding: Finding, *, other: Recorded) -> str:
        """Why it may lack a counterpart in the `other` run for another reason than that it is sound; "" for none."""
        is_b = other is self.b
        if reason := self.unjudged(finding, other=other):
            return f"not judged in {'B' if is_b else 'A'}: {reason}"
        lacking = self.alignment.only_a if is_b else self.alignment.only_b
        if finding.module in lacking:
            return f"{'B' if is_b else 'A'} has no such module"
        if finding.first_step > (end := int(other.trace.steps[-1])):
            return f"{'B' if is_b else 'A'} ends at step {end}"
        return ""

    def to_dict(self) -> dict[str, Json]:
        """The difference as JSON types; NaN and infinities are strings."""
        alignment = self.alignment
        prefix = alignment.prefix
        document: dict[str, Json] = {
            "schema": DIFFERENCE_SCHEMA,
            "a": _about(self.a),
            "b": _about(self.b),
            "empty": self.is_empty,
            "appeared": [self._finding(f, self.a) for f in self.appeared],
            "vanished": [self._finding(f, self.b) for f in self.vanished],
            "moved": [match.to_dict() for match in self.moved],
            "severity_changed": [match.to_dict() for match in self.regraded],
            "modules": {
                "paired": len(alignment.pairs),
                "prefix": None if prefix is None else {"text": prefix.text, "of": prefix.of},
                "only_a": list(alignment.only_a),
                "only_b": list(alignment.only_b),
                "retyped": {name: list(types) for name, types in alignment.retyped.items()},
            },
            "steps": {"first": self.first, "last": self.last, "shared": self.shared},
            "layers": [change.to_dict() for change in self.compared.changes],
            "measured_only_in_a": {m.value: list(names) for m, names in self.compared.only_a.items()},
            "measured_only_in_b": {m.value: list(names) for m, names in self.compared.only_b.items()},
            "gradient": [place.to_dict() for place in self.places],
        }
        return {key: finite(value) for key, value in document.items()}

    def _finding(self, finding: Finding, other: Recorded) -> Mapping[str, Json]:
        return {**finding.to_dict(), "remark": self.remark(finding, other=other) or None}


def difference(a: Recorded, b: Recorded) -> Difference:
    """Compares B with A.

    Raises:
        TraceError: One of them holds no recorded step or no site.
    """
    for one in (a, b):
        if not len(one.trace.steps) or not one.trace.sites:
            lacks = "site" if len(one.trace.steps) else "step"
            raise TraceError(f"{one.name!r} holds no recorded {lacks}; there is nothing to compare.")
    alignment = align(a.trace, b.trace)
    first, last, shared = overlap(a.trace.steps, b.trace.steps)
    found = matched(a.diagnosis.findings, b.diagnosis.findings, alignment, _slack(a.trace, b.trace))
    return Difference(
        a=a,
        b=b,
        alignment=alignment,
        appeared=_without([m.b for m in found], b.diagnosis.findings),
        vanished=_without([m.a for m in found], a.diagnosis.findings),
        matches=found,
        compared=compare(a.trace, b.trace, alignment, first, last),
        first=first,
        last=last,
        shared=shared,
        places=places_of(a.trace, b.trace, alignment, first, last),
    )


def _without(taken: Sequence[Finding], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    known = {id(finding) for finding in taken}
    return tuple(finding for finding in findings if id(finding) not in known)


_ONSET_SHARE = 0.1  # of the shorter run: another seed shifts the step at which units die by as much


def _slack(a: Trace, b: Trace) -> float:
    """Steps by which an onset may differ and be the same: what lies between two recorded ones, or a share of a run."""
    gaps = [float((trace.steps[1:] - trace.steps[:-1]).max(initial=0)) for trace in (a, b)]
    lengths = [float(trace.steps[-1] - trace.steps[0]) for trace in (a, b)]
    return max(*gaps, _ONSET_SHARE * min(lengths))


def _about(one: Recorded) -> Mapping[str, Json]:
    trace, meta = one.trace, one.trace.meta
    return {
        "name": one.name,
        "model": meta.get("model"),
        "every": meta.get("every"),
        "steps": len(trace.steps),
        "first_step": int(trace.steps[0]),
        "last_step": int(trace.steps[-1]),
        "sites": len(trace.sites),
        "findings": len(one.diagnosis.findings),
        "not_judged": [{"rule": item.rule, "reason": item.reason} for item in one.diagnosis.not_judged],
    }

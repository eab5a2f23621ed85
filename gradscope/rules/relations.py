"""Roots and symptoms: which finding explains which.

A finding is a symptom if another one can explain it by the table below, began no later, and lies where its effect goes:
a lost gradient is missing upstream, a broken signal downstream. What is left are the roots.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from gradscope.findings import Finding, Role
from gradscope.trace import Trace

Guard: TypeAlias = Callable[[Finding, Finding], bool]


def relate(findings: Iterable[Finding], trace: Trace) -> tuple[Finding, ...]:
    """`findings` with their roles, roots first, the worst first."""
    found = list(findings)
    parents = {index: _parent(finding, found) for index, finding in enumerate(found)}
    related = []
    for index, finding in enumerate(found):
        top = index
        while (above := parents[top]) is not None:
            top = above
        if top != index:
            root = found[top]
            finding = replace(finding, role=Role.SYMPTOM, caused_by=(root.module, root.code))
        related.append(finding)
    return tuple(sorted(related, key=lambda f: (f.role.value, -f.severity.rank, f.first_step, f.code)))


def _anywhere(cause: Finding, effect: Finding) -> bool:
    return True


def _upstream(cause: Finding, effect: Finding) -> bool:
    """Some of the effect's evidence lies at or before the cause's: a gradient that is lost there is missing before."""
    return _shallowest(effect) <= _deepest(cause)


def _overlapping(cause: Finding, effect: Finding) -> bool:
    """The two share layers, or nearly."""
    return _shallowest(effect) <= _deepest(cause) + 2 and _deepest(effect) >= _shallowest(cause) - 2


def _across(cause: Finding, effect: Finding) -> bool:
    """The effect stretches over the cause's place."""
    return _shallowest(effect) <= _deepest(cause) and _deepest(effect) >= _shallowest(cause)


def _same_module(cause: Finding, effect: Finding) -> bool:
    return cause.module == effect.module


def _earlier(cause: Finding, effect: Finding) -> bool:
    """The cause began in an earlier step."""
    return cause.first_step < effect.first_step


# effect: (cause, guard), the likeliest cause first. A cause that begins in the same step must stand in `ORDER` before
# its effect.
EXPLAINED_BY: dict[str, tuple[tuple[str, Guard], ...]] = {
    "GS101": (
        ("GS504", _anywhere),
        ("GS304", _overlapping),
        ("GS201", _across),
        ("GS301", _upstream),
        ("GS302", _upstream),
        ("GS502", _earlier),
    ),
    "GS102": (("GS504", _anywhere), ("GS202", _upstream), ("GS305", _overlapping), ("GS502", _anywhere)),
    "GS103": (
        ("GS504", _anywhere),
        ("GS201", _same_module),
        ("GS401", _earlier),
        ("GS301", _upstream),
        ("GS302", _upstream),
        ("GS304", _upstream),
        ("GS101", _upstream),
        ("GS502", _anywhere),
    ),
    "GS201": (("GS504", _anywhere), ("GS502", _earlier), ("GS202", _earlier)),
    "GS202": (("GS504", _anywhere), ("GS502", _earlier)),
    "GS301": (
        ("GS504", _anywhere),
        ("GS202", _anywhere),
        ("GS305", _anywhere),
        ("GS304", _anywhere),
        ("GS102", _anywhere),
        ("GS502", _anywhere),
        ("GS101", _overlapping),
        ("GS401", _anywhere),
    ),
    "GS302": (("GS504", _anywhere), ("GS202", _anywhere), ("GS305", _anywhere), ("GS502", _anywhere)),
    "GS304": (("GS504", _anywhere), ("GS201", _overlapping), ("GS301", _anywhere), ("GS502", _earlier)),
    "GS305": (("GS504", _anywhere), ("GS202", _overlapping), ("GS502", _earlier)),
    "GS401": (("GS202", _anywhere), ("GS305", _anywhere), ("GS102", _anywhere), ("GS502", _anywhere)),
    "GS501": (
        ("GS504", _anywhere),
        ("GS304", _anywhere),
        ("GS201", _upstream),
        ("GS202", _anywhere),
        ("GS101", _anywhere),
        ("GS301", _upstream),
        ("GS302", _upstream),
        ("GS503", _anywhere),
        ("GS502", _anywhere),
        ("GS401", _anywhere),
    ),
    "GS502": (("GS202", _anywhere), ("GS305", _anywhere), ("GS102", _anywhere)),
    "GS503": (("GS202", _anywhere), ("GS305", _anywhere), ("GS102", _anywhere), ("GS502", _anywhere)),
}

# Of two that begin in the same step, the one that can be the cause: how the model was built before what it does,
# forward before backward, backward before update.
ORDER = (
    "GS504", "GS202", "GS305", "GS201", "GS304", "GS102", "GS502", "GS301", "GS302", "GS101", "GS103", "GS401",
    "GS503", "GS501",
)  # fmt: skip


def _parent(effect: Finding, found: list[Finding]) -> int | None:
    for code, guard in EXPLAINED_BY.get(effect.code, ()):
        for index, cause in enumerate(found):
            if cause.code == code and _comes_first(cause, effect) and guard(cause, effect):
                return index
    return None


def _comes_first(cause: Finding, effect: Finding) -> bool:
    if cause.first_step != effect.first_step:
        return cause.first_step < effect.first_step
    return cause.code in ORDER and effect.code in ORDER and ORDER.index(cause.code) < ORDER.index(effect.code)


def _shallowest(finding: Finding) -> int:
    return min((s.depth for s in finding.sites if s.depth >= 0), default=0)


def _deepest(finding: Finding) -> int:
    return max((s.depth for s in finding.sites), default=0)

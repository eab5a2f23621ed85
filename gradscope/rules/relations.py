"""Roots and symptoms: which finding explains which."""

from collections.abc import Iterable

from gradscope.findings import Finding
from gradscope.trace import Trace


def relate(findings: Iterable[Finding], trace: Trace) -> tuple[Finding, ...]:
    """`findings` with their roles, roots first, the worst first."""
    return tuple(sorted(findings, key=lambda f: (f.role.value, -f.severity.rank, f.first_step, f.code)))

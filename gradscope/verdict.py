"""What the gate says: for each target the findings that count, those that do not and why, and whether it passes.

A target is what was judged under one name: a model that `gradscope check` has trained, a trace, a script's model. What
tells a finding of one run from one of another is its rule, its module and its target, never a step or a value.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gradscope.findings import Diagnosis, Finding, Severity
from gradscope.sources import Place

GAIN_DRIFT = "gain-drift"  # code of what no rule finds: a layer's gain is not the baseline's any more


class Identity(NamedTuple):
    """What a finding is recognised by from run to run.

    Attributes:
        target: Name of what was judged.
        code: "GS301".
        module: Name of the module; "" is the model.
    """

    target: str
    code: str
    module: str

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits, the same for the same three words wherever and whenever they are made."""
        return hashlib.sha256("\0".join(self).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """A finding that the settings suppress.

    Attributes:
        reason: In the user's words.
    """

    finding: Finding
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One target and what was found there.

    Attributes:
        target: Its name.
        diagnosis: The findings that count, and what could not be judged; of several seeds the sum.
        known: Findings that the baseline holds.
        suppressed: Findings that the settings suppress.
        vanished: What the baseline holds and is not there any more.
        rules: Codes of the rules that were asked.
        seeds: With which it was trained; empty for a trace or a script.
        places: Where modules are written in the user's source.
        error: Why it could not be judged, as one sentence; "" where it could. Then nothing was found or recorded.
        gains: log₁₀ of the factor by which the gradient's norm changes on its way back through each module.
        duration_s: Of training and judging, in seconds.
    """

    target: str
    diagnosis: Diagnosis
    known: tuple[Finding, ...] = ()
    suppressed: tuple[Suppressed, ...] = ()
    vanished: tuple[Identity, ...] = ()
    rules: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    duration_s: float = 0.0

    def identities(self, finding: Finding) -> tuple[Identity, ...]:
        """What `finding` is recognised by: one for each module that it speaks of."""
        return tuple(Identity(self.target, finding.code, module) for module in finding.modules)

    def failing(self, fail_on: Severity | None) -> tuple[Finding, ...]:
        """The findings for which a gate that is set to `fail_on` fails, in the diagnosis' order."""
        return tuple(f for f in self.diagnosis.findings if fail_on is not None and f.severity.reaches(fail_on))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that one call of the gate has judged.

    Attributes:
        targets: In the order in which they were asked for.
        fail_on: Lowest severity for which the gate fails; None for never.
        baseline: Whether it was compared with a baseline.
    """

    targets: tuple[Judged, ...]
    fail_on: Severity | None = Severity.ERROR
    baseline: bool = False

    @property
    def broken(self) -> bool:
        """Whether a target could not be judged."""
        return any(one.error for one in self.targets)

    @property
    def ok(self) -> bool:
        """Whether everything could be judged, and no finding reaches `fail_on`."""
        return not self.broken and not any(one.failing(self.fail_on) for one in self.targets)

    @property
    def exit_code(self) -> int:
        """0: it passes; 1: findings at or above `fail_on`; 2: something could not be judged, or nothing was."""
        if self.broken or not self.targets:
            return 2
        return 0 if self.ok else 1

"""GS401: the place where NaN or infinity is born."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.births import Birth, birth_of
from gradscope.rules.half_range import left_range
from gradscope.rules.wording import number
from gradscope.trace import Floats, Trace

OVERFLOW = "The numbers overflow: lower the learning rate, or the initial weights if they were large from the start."
_NOUNS = {
    Quantity.INPUT: "the input",
    Quantity.OUTPUT: "the output",
    Quantity.LOSS: "the loss",
    Quantity.WEIGHT: "the parameter",
    Quantity.WEIGHT_UPDATE: "the update",
}


@dataclass(frozen=True)
class NonFinite(Rule):
    """NaN or infinity appears; this names the module in which it was made, and in which direction.

    What it means: every later number that depends on it is lost; once it is in a weight the run is over.
    How it is measured: in the first step with a non-finite element, what came first: the data, a weight, then the
        shallowest module whose output is not finite while what ran before it was, then the deepest module that gives
        back a non-finite gradient for a finite one, then the gradients of the parameters, then the update.
    Why the threshold: one element is enough; NaN does not heal where it has reached a weight.
    What to try: clamp before log, sqrt, acos and division (an ε inside of the root, not outside); lower the learning
        rate if the numbers grew before; torch.autograd.set_detect_anomaly(True) names the operation.
    Where it stays silent: infinities that a module makes on purpose and that reach neither the loss nor a gradient, as
        a mask of −inf; an infinite slope that reaches no parameter, as that of a root behind a rectifier; overflowing
        gradients that an AMP scaler skips; what has left the range of float16 (GS403).
    Source: IEEE 754; PyTorch documentation on AMP for the scaler's skipped steps.
    """

    code = "GS401"
    name = "non-finite"
    reads = frozenset({Quantity.OUTPUT})

    growth: float = 1e3  # of the largest element since the first record: then it is an overflow
    huge: float = 1e4  # or where it was already of this size

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: where the first one was born; the others follow from it."""
        birth = birth_of(trace)
        if birth is None or left_range(trace, birth) is not None:
            return
        column, step, rows = birth.column, birth.row, birth.rows
        before = trace.statistics[Statistic.ABS_MAX][:step, column]
        before = before[np.isfinite(before)]
        grown = len(before) > 0 and float(before[-1]) > min(self.growth * max(float(before[0]), 1e-30), self.huge)
        elements = float(trace.statistics[Statistic.NONFINITE_COUNT][step, column])
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.WARNING if birth.only_gradients and birth.heals else Severity.ERROR,
            module=birth.module,
            sites=(trace.sites[column],),
            first_step=int(trace.steps[step]),
            last_step=int(trace.steps[rows[-1]]),
            measured=elements,
            threshold=0.0,
            unit="elements",
            message=(
                f"{birth.how} at step {trace.steps[step]}: {elements:.0f} of"
                f" {trace.statistics[Statistic.NUMEL][step, column]:.0f} elements of {_noun(trace, birth)} are NaN or"
                f" infinite ({birth.extent(len(trace.steps))})."
            ),
            cause=_history(grown, before),
            remedy=OVERFLOW if grown else birth.remedy,
        )


def _noun(trace: Trace, birth: Birth) -> str:
    """What the elements are elements of; the sentence before has told of which module."""
    site = trace.sites[birth.column]
    return _NOUNS.get(site.quantity, "the gradient" if site.quantity.endswith("_grad") else str(site))


def _history(grown: bool, before: Floats) -> str:
    """How the site came to it: what its largest element was in the steps before."""
    if not len(before):
        return "It was so from the first recorded step on."
    if grown:
        first, last = number(before[0]), number(before[-1])
        return f"Its largest element grew from {first} to {last} in the steps before: it overflowed."
    return f"Its largest element was {number(before[-1])} in the step before: it did not grow into it."

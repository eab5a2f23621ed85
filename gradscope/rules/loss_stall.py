"""GS602: the loss does not fall."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.rules.losses import ends, loss_site
from gradscope.rules.wording import both, number
from gradscope.trace import Trace


@dataclass(frozen=True)
class LossStall(Rule):
    """The loss ends where it began, as far as its noise lets that be told.

    What it means: so far nothing was learned. This is an outcome, and what brought it about is a finding of its own
        wherever the trace shows it; by itself it says only that there is something to look for, or nothing to learn.
    How it is measured: the mean of the first quarter of the recorded losses minus the mean of the last quarter, against
        the standard error of that difference and against the mean itself.
    Why the threshold: two standard errors are what noise alone exceeds in one run of forty; a loss that has fallen by
        5 % has moved, however noisy it is.
    What to try: to overfit one batch; what cannot do that has a fault in the model or in the step.
    Where it stays silent: fewer than 20 losses; a loss at zero. It is worth knowing and no more: a model that has
        converged, an adversarial game, and a reward's surrogate all have losses that stay where they are.
    Source: Welch's test of two means.
    """

    code = "GS602"
    name = "loss-stall"
    reads = frozenset({Quantity.LOSS})

    errors: float = 2.0
    least_fall: float = 0.05
    min_steps: int = 20

    def concerns(self, trace: Trace) -> bool:
        """Runs whose loss was recorded, that are long enough to have got somewhere."""
        return int(np.isfinite(trace.per_step["loss"]).sum()) >= self.min_steps

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding, of the model as a whole."""
        run = ends(trace, least=self.min_steps)
        quarter = len(run.values) // 4
        head, tail = run.values[:quarter], run.values[-quarter:]
        before, after = float(head.mean()), float(tail.mean())
        noise = float(np.sqrt((head.var(ddof=1) + tail.var(ddof=1)) / quarter))
        fall = before - after
        if before == after == 0 or fall > self.errors * noise or fall > self.least_fall * abs(before):
            return
        told = both(before, after)
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.INFO,
            module="",
            sites=loss_site(trace),
            first_step=int(trace.steps[run.rows[0]]),
            last_step=int(trace.steps[run.rows[-1]]),
            measured=fall / noise if noise > 0 else 0.0,
            threshold=self.errors,
            unit="standard errors",
            message=(
                f"The loss has not fallen in {len(run.values)} steps: its mean is {told[0]} in the first quarter"
                f" and {told[1]} in the last."
            ),
            cause=f"Its lowest value was {number(float(run.values.min()))}; noise alone makes ±{number(noise)}.",
            remedy="See whether the model can overfit a single batch.",
        )

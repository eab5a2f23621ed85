"""GS601: the loss has left the place where it began, upwards."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.rules.losses import Ends, ends, loss_site
from gradscope.rules.wording import number
from gradscope.trace import Trace


@dataclass(frozen=True)
class LossDivergence(Rule):
    """The loss ends far above where it began.

    What it means: the run is worse than no training; this is the outcome, and what brought it about is a finding of
        its own wherever the trace shows it.
    How it is measured: the median of the last fifth of the recorded losses over the median of the first three, or, if
        that is larger, over their spread: losses may begin near zero, or below.
    Why the threshold: ten times the first loss is beyond the noise of a batch and beyond the rise of one part of a sum
        against another, as in adversarial training; a classifier that has just been drawn is at chance already, and
        ten times as bad as chance is never on the way to something better. An error from a thousand times on, where
        numbers begin to overflow.
    What to try: what the cause of it asks for; where none was found, a tenth of the learning rate.
    Where it stays silent: a peak that has healed by the end; fewer than six losses; a loss that becomes NaN (GS401).
    Source: the definition of divergence; chance is log(classes) for cross entropy.
    """

    code = "GS601"
    name = "loss-divergence"
    reads = frozenset({Quantity.LOSS})

    growth: float = 10.0
    error_growth: float = 1000.0
    min_steps: int = 6

    def concerns(self, trace: Trace) -> bool:
        """Runs whose loss was recorded: that is never required."""
        return not np.isnan(trace.per_step["loss"]).all()

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding, of the model as a whole."""
        run = ends(trace, least=self.min_steps)
        scale = max(abs(run.first), run.spread)
        if not scale > 0 or not run.last > self.growth * scale:
            return
        loss = run.values
        rose = run.rows[np.flatnonzero(loss > run.first + scale)[0]]
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if run.last > self.error_growth * scale else Severity.WARNING,
            module="",
            sites=loss_site(trace),
            first_step=int(trace.steps[rose]),
            last_step=int(trace.steps[run.rows[-1]]),
            measured=run.last / scale,
            threshold=self.growth,
            unit="times the first loss",
            message=(
                f"The loss rises from {number(run.first)} to {number(run.last)} (medians of the first three and the"
                f" last {run.tail} recorded steps); its lowest value is {number(float(loss.min()))}."
            ),
            cause=_cause(run),
            remedy="Divide the learning rate by ten; where it diverges all the same, the forward pass is at fault.",
        )


def _cause(run: Ends) -> str:
    steps = np.diff(run.values)
    worst = int(np.argmax(steps))
    return f"The steepest rise is from {number(run.values[worst])} to {number(run.values[worst + 1])} within one step."

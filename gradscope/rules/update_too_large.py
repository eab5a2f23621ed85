"""GS502: steps as large as the weights themselves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.rules.learning import Parameter, effective_update_ratios, optimizer_of, trainable_parameters
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True)
class UpdateTooLarge(Rule):
    """A step changes weights by as much as they are, so what they had learned, or been initialised with, is gone.

    What it means: training does not descend the loss, it jumps; ReLUs die and bounded activations saturate on the way.
    How it is measured: ‖Δw‖₂ of every weight over ‖w‖₂, or over the norm that a weight of its size is usually drawn
        with where that is larger.
    Why the threshold: at 1 a step replaces the weight: once is enough, since nothing brings the old one back. A ratio
        that stays above 0.3 over a fifth of the run replaces it within a few steps. Training is usual at 1e-3; Adam's
        first steps, each of the size of the learning rate per element, reach 0.1 to 0.4 in healthy runs.
    What to try: a learning rate lower by the factor of the ratio to 1e-2; a warm-up; clipping by norm if single steps
        stand out.
    Where it stays silent: weights that start at zero or much smaller than usual and have to grow; biases, scales of
        normalisation layers, single numbers.
    Source: the usual 1e-3 is a rule of thumb (Karpathy, CS231n notes); You et al. 2017 (LARS) judge the same ratio.
    """

    code = "GS502"
    name = "update-too-large"
    reads = frozenset({Quantity.WEIGHT_UPDATE})

    replaced: float = 1.0
    lasting_ratio: float = 0.3
    lasting_share: float = 0.2
    recovered: float = 0.2  # of the first loss: a run that gets there has survived the large step
    stuck: float = 0.9

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding, at the weight that moves the most."""
        ratios = {
            p: effective_update_ratios(trace, p)
            for p in trainable_parameters(trace)
            if p.is_weight and p.update is not None
        }
        ratios = {p: r for p, r in ratios.items() if np.isfinite(r).any()}
        if not ratios:
            raise NotJudged("needs the update of at least one weight in one step")
        sick = {p: self._sick(r) for p, r in ratios.items()}
        sick = {p: rows for p, rows in sick.items() if len(rows)}
        if sick:
            yield self._finding(trace, sick, ratios)

    def _sick(self, ratios: Doubles) -> Ints:
        finite = np.isfinite(ratios)
        above = np.flatnonzero(finite & (np.nan_to_num(ratios) >= self.lasting_ratio))
        if len(above) >= max(3, self.lasting_share * finite.sum()):
            return above
        return np.flatnonzero(finite & (np.nan_to_num(ratios) >= self.replaced))

    def _severity(self, trace: Trace, steps: int) -> Severity:
        loss = trace.per_step["loss"]
        if steps >= max(3, self.lasting_share * len(loss)):
            return Severity.ERROR
        if np.isnan(loss).all():
            return Severity.WARNING
        first, last = float(loss[np.flatnonzero(~np.isnan(loss))[0]]), float(np.median(loss[-3:]))
        if last < self.recovered * first:
            return Severity.INFO
        return Severity.WARNING if last < self.stuck * first else Severity.ERROR

    def _finding(self, trace: Trace, sick: dict[Parameter, Ints], ratios: dict[Parameter, Doubles]) -> Finding:
        first = min(int(rows[0]) for rows in sick.values())
        worst = max(sick, key=lambda p: np.nan_to_num(ratios[p][first]))
        largest = float(ratios[worst][sick[worst]].max())
        rows = np.unique(np.concatenate(list(sick.values())))
        optimizer = optimizer_of(trace)
        lr = float(trace.per_step["lr"][first])
        where = f"{worst.module}.{worst.name}".lstrip(".")
        bar = min(float(ratios[p][r].min()) for p, r in sick.items())
        bar = self.replaced if bar >= self.replaced else self.lasting_ratio
        now = float(np.nan_to_num(ratios[worst][first]))
        text = f"In {len(rows)} of {len(trace.steps)} steps a weight moved by {bar:g} times its norm or more"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=self._severity(trace, len(rows)),
            module=worst.module,
            sites=tuple(trace.sites[p.update] for p in sick if p.update is not None),
            first_step=int(trace.steps[first]),
            last_step=int(trace.steps[rows[-1]]),
            measured=largest,
            threshold=bar,
            unit="‖Δw‖/‖w‖",
            message=f"{text}: {where} by up to {number(largest)}; {len(sick)} of {len(ratios)} weights did so.",
            cause=(
                f"{optimizer.name or 'The update rule'} at a learning rate of {lr:g} moves {where} by"
                f" {number(now)} of its norm at step {trace.steps[first]}."
            ),
            remedy=(
                f"Lower the learning rate to about {lr * 1e-2 / max(now, 1e-30):.0e}, where this step would be 1 % of"
                " the weight; a warm-up helps if only the first steps are too large."
            ),
        )

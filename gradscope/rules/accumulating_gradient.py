"""GS505: gradients of earlier steps are still in `.grad`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.learning import Parameter, has_optimizer, moved_by_another, norms, trainable_parameters
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.regions import Region, regions
from gradscope.rules.wording import count, number
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class AccumulatingGradient(Rule):
    """The backward pass adds to what earlier steps have left in `.grad`, and the optimizer applies the sum.

    What it means: each step repeats all steps before it. The step grows with the number of steps, and the sum turns
        around only long after the loss has.
    How it is measured: for each parameter ‖.grad‖ as the step's first backward found it, where nobody had cleared it
        since the last update, over ‖.grad‖ afterwards.
    Why the threshold: a share c of old gradients acts as momentum of c. A tenth changes little; gradients that are
        never cleared soon make up nine tenths and more, without the decay that momentum has.
    What to try: call zero_grad() once in each step, of the optimizer that holds these parameters.
    How grave it is: an error where the loss is not lower in the end, or not finite; else a warning.
    Where it stays silent: micro-batches that are added up for one update; gradients that are cleared before they are
        applied, as those that a generator's loss leaves in a discriminator; closures that clear them.
    Source: follows from the definition; Polyak 1964 for momentum.
    """

    code = "GS505"
    name = "accumulating-gradient"
    reads = frozenset({Quantity.WEIGHT_GRAD})

    min_fraction: float = 0.1
    min_steps: int = 3

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each region whose gradients nobody clears."""
        parameters = [p for p in trainable_parameters(trace) if p.size > 0]
        carried = {p: _carried(trace, p) for p in parameters}
        judged = {p: c for p, c in carried.items() if (~np.isnan(c)).sum() >= self.min_steps}
        if not judged:
            raise NotJudged(f"needs {self.min_steps} steps after the first in which it is known what .grad held before")
        lasting = {p: persistence(np.nan_to_num(c) >= self.min_fraction, ~np.isnan(c)) for p, c in judged.items()}
        sick = {p: found for p, found in lasting.items() if found is not None}
        owners = list(dict.fromkeys(p.module for p in sorted(judged, key=lambda p: p.grad)))
        for region in regions({p.module for p in sick}, owners):
            members = [p for p in sick if p.module in region.members]
            whole = len(region.members) == len(owners)
            yield self._finding(trace, region, members, carried, sick, whole=whole)

    def _finding(
        self,
        trace: Trace,
        region: Region,
        members: Sequence[Parameter],
        carried: dict[Parameter, Doubles],
        sick: dict[Parameter, Persistence],
        *,
        whole: bool,
    ) -> Finding:
        rows = np.unique(np.concatenate([sick[p].rows for p in members]))
        known = np.any([~np.isnan(carried[p]) for p in members], axis=0)
        share = float(np.median([np.median(carried[p][sick[p].rows]) for p in members]))
        steps, sizes = trace.steps, _norm_of(trace, members)
        where = "the model" if whole else str(region)
        finite = sizes[np.isfinite(sizes)]
        grew = (
            f": its norm was {number(finite[0])} in the first recorded step and up to {number(finite.max())} later"
            if len(finite)
            else ""
        )
        never = len(rows) >= known.sum() - 1
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.WARNING if _falls(trace) else Severity.ERROR,
            module="" if whole else region.module,
            sites=tuple(trace.sites[p.grad] for p in members),
            alike=region.members,
            first_step=int(steps[rows[0]]),
            last_step=int(steps[rows[-1]]),
            measured=share,
            threshold=self.min_fraction,
            unit="‖carried over‖/‖.grad‖",
            message=(
                f"From step {steps[rows[0]]} on, backward adds to gradients of earlier steps in"
                f" {count(len(members), 'parameter')} of {where}, in {len(rows)} of {known.sum()} steps: what was there"
                f" has {number(share)} times the norm of the sum."
            ),
            cause=(f"{'Nothing clears' if never else 'Not every step clears'} .grad of {where}{grew}."),
            remedy=(
                "Call optimizer.zero_grad() in each step, before backward()."
                if whole
                else f"Others are cleared: call zero_grad() in each step on what holds {where} as well, before"
                " backward()."
            ),
        )


def _carried(trace: Trace, parameter: Parameter) -> Doubles:
    """The statistic in the steps in which it can be a fault, NaN in others.

    The gradient has to be applied; and where no optimizer was attached, so that a micro-batch is a step, what came
    before has to have moved the weight.
    """
    values = trace.statistics[Statistic.CARRIED_FRACTION][:, parameter.grad].astype(np.float64)
    judged: NDArray[np.bool_] = np.arange(len(values)) > 0  # nothing can lie there in the first
    if has_optimizer(trace) and not moved_by_another(trace, parameter):
        judged &= ~np.isnan(norms(trace, parameter.applied))
    elif parameter.update is not None:
        moved = norms(trace, parameter.update)
        judged[1:] &= ~(moved[:-1] == 0)
    return np.where(judged, values, np.nan)


def _norm_of(trace: Trace, members: Sequence[Parameter]) -> Doubles:
    """‖.grad‖₂ over all of them, as backward left it."""
    found = np.stack([norms(trace, p.grad) for p in members])
    seen = ~np.isnan(found).all(axis=0)
    return np.where(seen, np.sqrt(np.nansum(found**2, axis=0)), np.nan)


def _falls(trace: Trace) -> bool:
    """Whether the loss was lower in the last tenth of the run than in the first; true where nobody told it."""
    loss = trace.per_step["loss"]
    if np.isnan(loss).all():
        return not (trace.statistics[Statistic.NONFINITE_COUNT][-1] > 0).any()
    if not np.isfinite(loss[-1]):
        return False
    loss = loss[np.isfinite(loss)]
    some = max(1, len(loss) // 10)
    return bool(loss[-some:].mean() < loss[:some].mean())

"""GS301: units that are silent for every input."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.activations import CAN_DIE, has_activation_of
from gradscope.rules.base import Rule
from gradscope.rules.layers import learned_layers
from gradscope.rules.persistence import persistence
from gradscope.rules.stuck import Stuck, and_others, gathered
from gradscope.rules.wording import number
from gradscope.trace import Trace


@dataclass(frozen=True)
class DeadUnits(Rule):
    """Most units of a rectifying activation give nothing, whatever the input.

    What it means: a dead unit passes on neither signal nor gradient, so it cannot come back by itself.
    How it is measured: dead_fraction, the share of units that no sample activated in the last eight recorded steps.
    Why the threshold: where the inputs of a layer all have one sign, each unit is off for all of them with a chance of
        one half, so small layers lose up to three quarters by chance and still learn with the rest. More than that is
        a layer that has lost its width; from 99 % on nothing passes.
    What to try: biases at zero or above, a lower learning rate, LeakyReLU or GELU in place of ReLU.
    Where it stays silent: half-zero outputs, which are a ReLU's nature; units that wake within eight steps; a few dead
        units among many live ones.
    Source: Maas et al. 2013 (units that never activate); Lu et al. 2019, Dying ReLU and Initialization.
    """

    code = "GS301"
    name = "dead-units"
    reads = frozenset({Quantity.OUTPUT})

    warn_fraction: float = 0.75
    error_fraction: float = 0.99
    min_steps: int = 3

    def concerns(self, trace: Trace) -> bool:
        """Models with an activation whose units can fall silent."""
        return has_activation_of(trace, CAN_DIE) or not np.isnan(trace.statistics[Statistic.DEAD_FRACTION]).all()

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each run of neighbouring activations, or one for all where there are many runs."""
        sites, dead = trace.by_depth(Quantity.OUTPUT, Statistic.DEAD_FRACTION)
        judged = [i for i in range(len(sites)) if (~np.isnan(dead[:, i])).sum() >= self.min_steps]
        if not judged:
            raise NotJudged(f"needs the output of a rectifying activation in {self.min_steps} recorded steps")
        found: list[Stuck | None] = []
        for i in judged:
            share = dead[:, i].astype(np.float64)
            lasting = persistence(share >= self.warn_fraction, ~np.isnan(share))
            stands = lasting is not None and lasting.standing
            found.append(Stuck(site=sites[i], lasting=lasting, share=share) if lasting and stands else None)
        for stuck, group in gathered(found):
            yield self._finding(trace, stuck, group)

    def _finding(self, trace: Trace, stuck: Stuck, group: tuple[Site, ...]) -> Finding:
        site, share, at = stuck.site, stuck.share, stuck.lasting.last
        first, last = int(trace.steps[stuck.lasting.first]), int(trace.steps[at])
        before = [layer.module for layer in learned_layers(trace) if layer.depth < site.depth]
        cause = f"The share was {share[~np.isnan(share)][0]:.0%} in the first recorded step"
        if before and (given := trace.columns(Quantity.OUTPUT, before[-1])):
            mean, high = (float(trace.statistics[s][at, given[0]]) for s in (Statistic.MEAN, Statistic.MAX))
            cause += f"; {before[-1]} gives it values of mean {number(mean)} and at most {number(high)} at step {last}"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if share[at] >= self.error_fraction else Severity.WARNING,
            module=site.module,
            sites=group,
            alike=tuple(s.module for s in group),
            first_step=first,
            last_step=last,
            measured=float(share[at]),
            threshold=self.warn_fraction,
            unit="share of units",
            message=(
                f"{share[at]:.0%} of the units of {site.module} are silent for every input since step {first}"
                f"{and_others(group)}."
            ),
            cause=cause + ".",
            remedy=(
                f"Start with the biases of {before[-1] if before else 'the layer before it'} at zero or slightly above;"
                " if the units died in training, lower the learning rate; LeakyReLU lets a silent unit come back."
            ),
        )

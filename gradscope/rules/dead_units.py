"""GS301: units that are silent for every input."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.idle import WINDOW
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.activations import CAN_DIE, has_activation_of
from gradscope.rules.base import Rule
from gradscope.rules.layers import size_of
from gradscope.rules.persistence import persistence
from gradscope.rules.stuck import Stuck, and_others, gathered, giver_of, place_of
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class DeadUnits(Rule):
    """Most units of a rectifying activation give nothing, whatever the input.

    What it means: a dead unit passes on neither signal nor gradient, so it cannot come back by itself.
    How it is measured: dead_fraction, the share of units that no sample activated in the last eight recorded steps.
    Why the threshold: where the inputs of a layer all have one sign, each unit is off for all of them with a chance of
        one half, so small layers lose up to three quarters by chance and still learn with the rest. More than that is
        a layer that has lost its width; from 99 % on nothing passes. Half of them are enough where it was built so:
        where what the units are given lies below zero, at the first record, by three times what chance explains.
    What to try: biases at zero or above, a lower learning rate, LeakyReLU or GELU in place of ReLU.
    Where it stays silent: half-zero outputs, which are a ReLU's nature; units that wake within eight steps; a few dead
        units among many live ones.
    Source: Maas et al. 2013 (units that never activate); Lu et al. 2019, Dying ReLU and Initialization.
    """

    code = "GS301"
    name = "dead-units"
    reads = frozenset({Quantity.OUTPUT})

    warn_fraction: float = 0.75
    built_fraction: float = 0.5
    beyond_chance: float = 3.0  # standard deviations of the mean over the units
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
            bar = self.built_fraction if self._built_so(trace, sites[i], share) else self.warn_fraction
            lasting = persistence(share >= bar, ~np.isnan(share))
            stands = lasting is not None and lasting.standing
            found.append(Stuck(site=sites[i], lasting=lasting, share=share, bar=bar) if lasting and stands else None)
        for stuck, group in gathered(found):
            yield self._finding(trace, stuck, group)

    def _built_so(self, trace: Trace, site: Site, share: Doubles) -> bool:
        """Whether the units began dead because what they are given lies below zero, by more than chance explains.

        The mean over n units, each of either sign, of what a layer gives is N(0, rms²/n) or closer to zero.
        """
        giver, begun = giver_of(trace, site), int(np.argmax(~np.isnan(share)))
        if giver is None or share[begun] < self.built_fraction:
            return False
        mean, rms = (float(trace.statistics[s][begun, giver]) for s in (Statistic.MEAN, Statistic.RMS))
        biases = trace.columns(Quantity.WEIGHT, trace.sites[giver].module, "bias")
        return bool(biases) and mean * np.sqrt(size_of(trace, biases[0])) < -self.beyond_chance * rms

    def _finding(self, trace: Trace, stuck: Stuck, group: tuple[Site, ...]) -> Finding:
        site, share, at = stuck.site, stuck.share, stuck.lasting.last
        first, last = int(trace.steps[_onset(stuck)]), int(trace.steps[at])
        place, giver = place_of(trace, site), giver_of(trace, site)
        before = trace.sites[giver].module if giver is not None else ""
        begun = share[~np.isnan(share)][0]
        cause = f"The share was {begun:.0%} in the first recorded step"
        stats = (Statistic.MEAN, Statistic.MAX)
        given = [] if giver is None else [float(trace.statistics[s][at, giver]) for s in stats]
        if given and np.isfinite(given).all():  # else nothing of it is a number any more
            mean, high = map(number, given)
            cause += f"; {before} gives it values of mean {mean} and at most {high} at step {last}"
        which = f"the {site.module_type} after {place}" if place != site.module else place
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if share[at] >= self.error_fraction else Severity.WARNING,
            module=place,
            sites=group,
            alike=tuple(dict.fromkeys(place_of(trace, s) for s in group)),
            first_step=first,
            last_step=last,
            measured=float(share[at]),
            threshold=stuck.bar,
            unit="share of units",
            message=(
                f"{share[at]:.0%} of the units of {which} are silent for every input since step {first}"
                f"{and_others(group)}."
            ),
            cause=cause + ".",
            remedy=self._remedy(trace, stuck, before),
        )

    def _remedy(self, trace: Trace, stuck: Stuck, before: str) -> str:
        """Of units that began dead their biases, of those that died in training the step size."""
        begun = stuck.share[~np.isnan(stuck.share)][0]
        biases = trace.columns(Quantity.WEIGHT, before, "bias") if before else []
        if begun >= self.built_fraction and biases:
            mean, low = (float(trace.statistics[s][0, biases[0]]) for s in (Statistic.MEAN, Statistic.MIN))
            if low < 0:
                return (
                    f"Start with the biases of {before} at zero: their mean is {number(mean)}, the least {number(low)}."
                )
        if begun >= self.built_fraction:
            return (
                f"Draw the weights and biases of {before or 'the layer before it'} such that what it gives is centred."
            )
        rate = float(trace.per_step["lr"][_onset(stuck)])
        now = f" from {rate:g} to {rate / 10:g}" if np.isfinite(rate) else ""
        return f"Lower the learning rate{now}: the units died in training, pushed below zero by steps too large."


def _onset(stuck: Stuck) -> int:
    """Index of the step since which the units are silent: they count as dead when they have been for a window."""
    return max(stuck.lasting.first - (WINDOW - 1), 0)

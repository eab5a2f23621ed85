"""GS102: the gradient grows geometrically on its way to the input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.rules.chains import gradient_profiles
from gradscope.rules.gain import Bools, steady_growth, steepest_rises
from gradscope.rules.learning import is_replaced
from gradscope.rules.persistence import Persistence
from gradscope.rules.spike import SPIKE, Spike, spike
from gradscope.rules.stretch import (
    Judged,
    Lasting,
    Stretch,
    decades_in_words,
    enough_layers,
    from_there,
    grows_from,
    named,
    other_remedy,
    steepest,
    stretch_of,
    way_back,
)
from gradscope.rules.wording import number
from gradscope.trace import Trace


@dataclass(frozen=True)
class ExplodingGradient(Rule):
    """Each layer passes back a multiple of the gradient it receives.

    What it means: the early layers take steps that are far too large for them, or no learning rate serves all layers.
    How it is measured: ‖∂L/∂y‖₂ of every layer with a weight, before its activation function, and of every tensor at
        which branches join, along a path that everything goes through: not the gradients of the parameters, in which a
        forward signal that grows cancels a gradient that shrinks.
    Why the threshold: 1.6 per layer lies between BatchNorm with ReLU (1.21, healthy) and twice the He scale (2, sick).
        A growth of 1.5 decades counts if the run begins with it; a network that learns makes its layers larger, so
        what training has made counts from 3 decades on, and so does what a deep net begins with at 1.1 per layer:
        over three decades no learning rate serves both ends. These count as well where they last for the one step that
        replaces the weights of the earliest layer. It is an error from 4 decades on. So is a norm of all gradients that
        is a thousand times the largest of the ten steps before, in a step that replaces a weight when none of those had
        moved one by a tenth, nor the rate was raised, and half of the loss before is not seen again.
    What to try: the initialisation that the activation asks for, normalisation, a lower learning rate; clipping treats
        the symptom.
    Where it stays silent: growth of less than 1.6 per layer, such as BatchNorm's, unless it adds up to 3 decades;
        one spike that the run gets over, or that growing steps lead to; fewer than four layers.
    Source: Glorot & Bengio 2010, section 4.2; He et al. 2015, section 2.2; Yang et al. 2019 for BatchNorm.
    """

    code = "GS102"
    name = "exploding-gradient"
    reads = frozenset({Quantity.OUTPUT_GRAD, Quantity.WEIGHT})

    min_decades: float = 1.5
    learned_decades: float = 3.0
    error_decades: float = 4.0
    far_loss: float = 10.0

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: the steepest stretch."""
        judged = [(profile, steepest_rises(-profile.values)) for profile in gradient_profiles(trace)]
        peak = spike(trace)
        if peak is None:
            enough_layers(trace, judged, Quantity.OUTPUT_GRAD)
        growing = [steady_growth(rises, from_start=self.min_decades, grown=self.learned_decades) for _, rises in judged]
        found = [*steepest(trace, judged, growing)] or [*self._blown_away(trace, judged, growing)]
        if peak is not None and not any(stretch.first_step < trace.steps[peak.row] for stretch, _ in found):
            yield self._of_spike(trace, peak)
            return
        for stretch, lasting in found:
            yield self._finding(trace, stretch, lasting)

    def _of_spike(self, trace: Trace, peak: Spike) -> Finding:
        step, factor = int(trace.steps[peak.row]), peak.norm / peak.before
        loss = float(trace.per_step["loss"][peak.row]) / peak.after.before
        batch = f", whose loss is {number(loss)} times that of those before" if loss > self.far_loss else ""
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR,
            module="",
            sites=(peak.site,),
            first_step=step,
            last_step=step,
            measured=float(np.log10(factor)),
            threshold=float(np.log10(SPIKE)),
            unit="decades",
            message=(
                f"The norm of all gradients is {number(peak.norm)} at step {step}, {number(factor)} times the largest"
                f" of the steps before, and the step moves a weight of {peak.module or 'the model'} by"
                f" {number(peak.moved)} of its norm."
            ),
            cause=(
                f"The steps before were small and the rate was the same: it comes with the batch of step {step}{batch}."
            ),
            remedy=(
                f"Look in the batch of step {step} for values that stand for something else, as 99999 for a missing"
                f" one, and mask them; clipping the total norm at {number(2 * peak.before)} keeps such a step harmless."
            ),
        )

    def _blown_away(self, trace: Trace, judged: Judged, growing: Sequence[Bools]) -> Iterator[Lasting]:
        """What did not last since the step that it made replaced the weights that it begins at."""
        found = []
        for (profile, rises), sick in zip(judged, growing, strict=True):
            rows = np.flatnonzero(sick & (rises.shared >= self.learned_decades))
            if not len(rows):
                continue
            first, last = int(rows[0]), int(rows[-1])
            lasting = Persistence(first=first, last=last, share=len(rows) / len(sick), standing=False, rows=rows)
            stretch = stretch_of(trace, profile, rises, lasting)
            earliest = {stretch.where, *(layer.module for layer in stretch.driving[:1])}
            if any(is_replaced(trace, module, first) for module in earliest):
                found.append((stretch, lasting))
        yield from [max(found, key=lambda pair: pair[0].decades)] if found else []

    def _finding(self, trace: Trace, stretch: Stretch, lasting: Persistence) -> Finding:
        budget = way_back(trace, stretch)
        begins = grows_from(trace, stretch, least=0.0)
        where = named(stretch, begins)
        first = f"; {where} is the first that makes it larger" if begins else ""
        advice = from_there(stretch, begins).weight_advice(trace, "smaller")
        built_so = not stretch.scale <= 1 and lasting.first == 0
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if stretch.decades >= self.error_decades else Severity.WARNING,
            module=where,
            sites=stretch.sites,
            first_step=stretch.first_step,
            last_step=stretch.last_step,
            measured=stretch.decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The gradient grows by {stretch.decades:.1f} decades from {stretch.late} back to {stretch.early}, a"
                f" factor of {number(10**stretch.per_layer)} per layer over {len(stretch.layers)} layers,"
                f" {stretch.when}."
            ),
            cause=f"{stretch.weights[0].upper()}{stretch.weights[1:]}{first}.{decades_in_words(budget)}",
            remedy=other_remedy(budget)
            or (
                f"{advice}; or put normalisation layers between."
                if built_so
                else "Lower the learning rate, or put a normalisation layer after each of these layers."
            ),
        )

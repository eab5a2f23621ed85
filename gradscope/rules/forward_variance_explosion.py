"""GS305: the signal grows on its way to the output."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.activations import LARGEST_SLOPE, asked_gain
from gradscope.rules.base import Rule
from gradscope.rules.chains import gradient_profiles, spread_in_order, spread_profiles
from gradscope.rules.gain import BEGINNING, DECAY, GROWTH, REMAINS, Bools, Rises, steady_growth, steepest_rises
from gradscope.rules.inflated import inflated
from gradscope.rules.layers import Profile, fan_in, learned_layers, relative_scale
from gradscope.rules.oversized import oversized
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.stretch import (
    Stretch,
    enough_layers,
    from_there,
    grows_from,
    joins_along,
    named,
    other_remedy,
    scale_along,
    steepest,
    way_back,
)
from gradscope.rules.wording import count, number
from gradscope.trace import Trace


@dataclass(frozen=True)
class ForwardVarianceExplosion(Rule):
    """Each layer's output spreads more than the one before, so the last layers are far too large.

    What it means: the loss starts far above chance, bounded activations saturate, and the gradient grows on its way
        back by the same factor; in low precision the numbers overflow.
    How it is measured: the std of every layer's output against depth; and, because a bounded activation hides the
        growth, a gradient that grows by 1.26 per layer or more over layers whose weights have at least 1.6 times the
        scale that their activation asks for. Where the gradient grows on its way back as GS102 asks, outputs that grow
        by 1.25 per layer are enough, as in a stream to which every block adds as much again. And of every layer by how
        much its weight has grown between the steps, beyond what the optimizer's updates can have done.
    Why the threshold: 1.5 decades over at least four layers, with a factor of 1.6 or more per layer, if the run begins
        with it; what training has made counts from three decades on. Twice the He scale doubles per layer. A bounded
        activation between the layers may cut the growth off each time: weights of three times the scale that keeps the
        spread in every layer, and half of the outputs at a bound at the start, are the same fault. It is an error from
        four decades on; of a run that begins with it and still has it at the end from two decades on: nets of 4 to 10
        ReLU or Tanh layers so drawn had not come down to the loss of chance after 600 steps of Adam or SGD, and with
        their default weights Adam had taught them. What something beside the optimizer has multiplied a weight by
        counts from the same 1.5 decades on, where the output has grown by half of that and the weight has three times
        the scale that keeps the spread.
    What to try: He initialisation before ReLU, Xavier before Tanh; normalisation layers.
    Where it stays silent: layers that training has made larger; a large layer before a normalisation or a bounded
        activation, which take its scale away (GS302 sees the latter); one spike.
    Source: He et al. 2015, section 2.2; Schoenholz et al. 2017, section 3 (one χ for both directions).
    """

    code = "GS305"
    name = "forward-variance-explosion"
    reads = frozenset({Quantity.OUTPUT, Quantity.WEIGHT})

    min_decades: float = 1.5
    learned_decades: float = 3.0
    error_decades: float = 4.0
    begun_error_decades: float = 2.0
    large_scale: float = GROWTH
    least_scale: float = 1.0
    cut_off_scale: float = 3.0
    cut_off_share: float = 0.5
    grown_by_others: float = 0.5  # decades from which on it is under way

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: the steepest stretch, or the layers that are too large where it is no stretch."""
        # the outputs of branches that are added to a stream tell how the stream grows, so their order will do
        profiles = (*spread_profiles(trace), *spread_in_order(trace))
        spread = [(profile, steepest_rises(profile.values)) for profile in profiles]
        gradient = [(profile, steepest_rises(-profile.values)) for profile in gradient_profiles(trace)]
        back = np.any([np.zeros(len(trace.steps), bool), *(self._back(rises) for _, rises in gradient)], axis=0)
        growing = [self._growing(trace, *each) | self._both_ways(each[1], back) for each in spread]
        exploding = [self._exploding(trace, *each) for each in gradient]
        steep = [
            *(("the output's std", *each) for each in steepest(trace, spread, growing)),
            *(("the gradient on its way back", *each) for each in steepest(trace, gradient, exploding)),
        ]
        begun = [each for each in steep if each[2].first == 0]
        few = [] if begun else [*self._by_others(trace), *self._few(trace)]
        if few:
            yield few[0]
        elif steep:
            what, stretch, lasting = (begun or steep)[0]
            yield self._finding(trace, stretch, lasting, what)
        else:
            enough_layers(trace, spread, Quantity.OUTPUT)
            yield from self._cut_off(trace)

    def _by_others(self, trace: Trace) -> Iterator[Finding]:
        """Layers that grow between the steps, not by them."""
        found = inflated(trace, decades=self.min_decades, scale=self.cut_off_scale)
        if found is None:
            return
        total = found.decades
        with np.errstate(invalid="ignore"):
            lasting = persistence(total >= self.grown_by_others, ~np.isnan(total))
        if lasting is None or not lasting.standing:
            return
        peak = int(np.nanargmax(total))
        at = found.growth[peak]
        layer, decades, output = found.layers[int(np.argmax(at))], float(total[peak]), float(found.output[peak])
        begun = int(np.flatnonzero(np.nan_to_num(total[: lasting.first]) <= 0)[-1])
        others = f", with {count(len(at) - 1, 'other layer')} like it," if len(at) > 1 else ""
        norm = trace.statistics[Statistic.L2_NORM][:, layer.weight]
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if decades >= self.begun_error_decades else Severity.WARNING,
            module=layer.module,
            sites=tuple(trace.sites[each.weight] for each in found.layers),
            alike=tuple(each.module for each in found.layers),
            first_step=int(trace.steps[begun]),
            last_step=int(trace.steps[lasting.last]),
            measured=decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The weight of {layer.module or 'the model'}{others} grows by {decades:.1f} decades between the steps,"
                f" from step {trace.steps[begun]} to {trace.steps[peak]}, and what comes out by {output:.1f}."
            ),
            cause=(
                f"Its norm goes from {number(float(norm[begun]))} to {number(float(norm[peak]))}, which the"
                " optimizer's updates cannot have done: something else multiplies it."
            ),
            remedy=(
                f"Look at what changes {layer.module or 'the weight'} after optimizer.step(), as a normalisation or an"
                " average does: it must leave the norm where it is."
            ),
        )

    def _few(self, trace: Trace) -> Iterator[Finding]:
        """Layers that the run begins with and that are too large by as much, though they make no slope."""
        few = oversized(trace)
        if few is None or not few.decades[0] >= self.min_decades:
            return
        known = ~np.isnan(few.decades)
        with np.errstate(invalid="ignore"):
            lasting = persistence(few.decades >= REMAINS * self.min_decades, known)
        if lasting is None:
            return
        layer, decades = few.worst, float(few.decades[0])
        scale, drawn = float(relative_scale(trace, layer)[0]), float(trace.statistics[Statistic.RMS][0, layer.weight])
        asked = asked_gain(layer.activation) / np.sqrt(fan_in(trace, layer))
        others = f", with {count(len(few.layers) - 1, 'other layer')} like it" if len(few.layers) > 1 else ""
        grave = decades >= self.begun_error_decades and lasting.standing
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if grave else Severity.WARNING,
            module=layer.module,
            sites=tuple(trace.sites[each.weight] for each in few.layers),
            first_step=int(trace.steps[lasting.first]),
            last_step=int(trace.steps[lasting.last]),
            measured=decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"{layer.module or 'The model'}{others} makes the signal {decades:.1f} decades larger than weights that"
                f" keep its spread, in steps {trace.steps[lasting.first]} to {trace.steps[lasting.last]}; nothing"
                " behind it brings that down."
            ),
            cause=f"Its weights have {number(scale)} times the scale that keeps a signal's spread at the first record.",
            remedy=(
                f"Draw the weights smaller: {layer.module or 'its weight'} has an rms of {number(drawn)}, a std of"
                f" {number(asked)} keeps the spread before {layer.activation or 'a linear layer'}."
            ),
        )

    def _growing(self, trace: Trace, profile: Profile, rises: Rises) -> Bools:
        """Where the outputs do, unless weights below the scale that keeps them say that biases or norms make them.

        Neither biases nor norms make three decades, layer by layer: there it is what multiplies beside the weights.
        """
        with np.errstate(invalid="ignore"):
            driven = ~(scale_along(trace, profile, rises) < self.least_scale) | (rises.decades >= self.learned_decades)
        return steady_growth(rises, from_start=self.min_decades, grown=self.learned_decades) & driven

    def _both_ways(self, rises: Rises, back: Bools) -> Bools:
        """Where the gradient grows on its way `back`, if the run begins with outputs that grow as well, if slower."""
        forward = steady_growth(rises, from_start=self.min_decades, grown=self.learned_decades, gain=DECAY)
        begun = (forward & back)[np.flatnonzero(rises.known)[:BEGINNING]].any()
        with np.errstate(invalid="ignore"):
            large = rises.decades >= self.min_decades
        return back & large if begun else forward & back

    def _back(self, rises: Rises) -> Bools:
        """Where the gradient grows as GS102 asks."""
        return steady_growth(rises, from_start=self.min_decades, grown=self.learned_decades)

    def _exploding(self, trace: Trace, profile: Profile, rises: Rises) -> Bools:
        """Where the gradient does, over layers with large weights: a second witness, half the slope is enough."""
        with np.errstate(invalid="ignore"):
            large = (scale_along(trace, profile, rises) >= self.large_scale) & ~joins_along(profile, rises)
        gain = np.sqrt(GROWTH)
        return steady_growth(rises, from_start=self.min_decades, grown=self.learned_decades, gain=gain) & large

    def _cut_off(self, trace: Trace) -> Iterator[Finding]:
        """Growth in every layer that a bounded activation cuts off each time, as the first record shows it."""
        *hidden, _ = learned_layers(trace)
        scales = [float(relative_scale(trace, layer)[0]) for layer in hidden]
        saturated = trace.statistics[Statistic.SATURATED_FRACTION]
        at_bounds = [c for c in trace.columns(Quantity.OUTPUT) if trace.sites[c].module_type in LARGEST_SLOPE]
        shares = saturated[0, at_bounds]
        shares = shares[~np.isnan(shares)]
        bounded = all(layer.activation in LARGEST_SLOPE for layer in hidden)
        if not bounded or not len(shares) or not np.min(scales) >= self.cut_off_scale:
            return
        share, scale = float(np.median(shares)), float(np.median(scales))
        if share < self.cut_off_share:
            return
        layer = hidden[0]
        asked = asked_gain(layer.activation) / np.sqrt(fan_in(trace, layer))
        drawn = float(trace.statistics[Statistic.RMS][0, layer.weight])
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.WARNING,
            module=layer.module,
            sites=tuple(trace.sites[h.weight] for h in hidden),
            first_step=int(trace.steps[0]),
            last_step=int(trace.steps[-1]),
            measured=scale,
            threshold=self.cut_off_scale,
            unit="times the scale that keeps the spread",
            message=(
                f"Every layer from {layer.module} to {hidden[-1].module} makes its signal about {number(scale)} times"
                f" as large, and its activation cuts it off: {share:.0%} of the outputs are at a bound in the first"
                " recorded step."
            ),
            cause=f"The weights have {number(scale)} times the scale that keeps a signal's spread (median of them).",
            remedy=(
                f"Draw the weights smaller: {layer.module} has rms {number(drawn)}, a std of {number(asked)} keeps"
                f" the spread before {layer.activation}; or put normalisation layers between."
            ),
        )

    def _finding(self, trace: Trace, stretch: Stretch, lasting: Persistence, what: str) -> Finding:
        built_so = lasting.first == 0 and lasting.standing
        bar = self.begun_error_decades if built_so else self.error_decades
        begins = grows_from(trace, stretch, least=self.least_scale)
        where = named(stretch, begins)
        first = f"; {where} is the first that makes its signal larger" if begins else ""
        by_others = _beside_weights(trace, stretch) if stretch.scale < GROWTH else None
        advice = from_there(stretch, begins).weight_advice(trace, "smaller")
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if stretch.decades >= bar else Severity.WARNING,
            module=where,
            sites=stretch.sites,
            first_step=stretch.first_step,
            last_step=stretch.last_step,
            measured=stretch.decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The signal explodes between {stretch.early} and {stretch.late}: {what} grows by"
                f" {stretch.decades:.1f} decades over {len(stretch.layers)} layers, a factor of"
                f" {number(10**stretch.per_layer)} per layer, {stretch.when}."
            ),
            cause=f"{stretch.weights[0].upper()}{stretch.weights[1:]}{first}.",
            remedy=by_others or f"{advice}; or put normalisation layers between.",
        )


def _beside_weights(trace: Trace, stretch: Stretch) -> str | None:
    """What to change where weights of such a scale cannot make the growth; None where they can."""
    known = other_remedy(way_back(trace, stretch))
    beside = 10**stretch.per_layer / max(stretch.scale, 1.0)
    if known is not None or beside < GROWTH:
        return known
    return (
        f"Look at what multiplies the signal by {number(beside)} per layer beside the weights: a sum over neighbours or"
        " positions is to be divided by their number; or put normalisation layers between."
    )

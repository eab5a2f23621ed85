"""GS304: the signal dies out on its way to the output."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.flow import flow_of
from gradscope.records import Quantity, Statistic
from gradscope.rules.activations import LARGEST_SLOPE
from gradscope.rules.base import Rule
from gradscope.rules.chains import gradient_profiles, spread_in_order, spread_profiles
from gradscope.rules.gain import DECAY, Bools, Rises, steady, steepest_rises
from gradscope.rules.layers import Layer, Profile, relative_scale
from gradscope.rules.persistence import Persistence
from gradscope.rules.stretch import Judged, Stretch, enough_layers, joins_along, module_of, scale_along, steepest
from gradscope.rules.wording import number
from gradscope.trace import Trace

_SUM = "AddBackward0"  # what autograd calls the sum of a branch and what leads around it
_MUCH_LARGER = 5.0  # times the scale of most layers: such a layer is not what makes the signal small
_LARGER = 2.0  # times, and its weights themselves too: it was drawn by another rule, and sums over more besides
SAMPLES = "the share of the output in which samples differ"


@dataclass(frozen=True)
class ForwardVarianceCollapse(Rule):
    """Each layer's output spreads less than the one before, so the last layers hardly see the input.

    What it means: the output does not depend on the input, and the gradient fades on its way back by the same factor.
    How it is measured: the std of every layer's output against depth; and, because biases keep the outputs from
        getting small while what the input contributes dies out, a gradient that shrinks over layers whose weights have
        at most half the scale √fan_in · std(w) that their activation asks for (√2 before a ReLU, 1 else). What the
        gradient loses per layer, a difference between two inputs loses too. Of a residual net, which share of the
        branches' outputs differs from sample to sample: all of them are given the stream.
    Why the threshold: three decades over at least four layers, with a factor of 1/1.25 or less per layer, as for
        GS101. Half of what is asked: torch's default for Linear is 0.41 of it before a ReLU and vanishes in deep nets;
        before a Tanh it is 0.58, and a Tanh layer loses little.
    What to try: He initialisation before ReLU, Xavier before Tanh; normalisation layers.
    Where it stays silent: nets of few layers, in which the loss stays under three decades; networks with normalisation
        or residual connections, whose weights may be small; what heals within a fifth of the run.
    Source: He et al. 2015, section 2.2; Schoenholz et al. 2017, section 3 (one χ for both directions).
    """

    code = "GS304"
    name = "forward-variance-collapse"
    reads = frozenset({Quantity.OUTPUT, Quantity.WEIGHT})

    min_decades: float = 3.0
    error_decades: float = 6.0
    small_scale: float = 0.5

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: the steepest stretch."""
        spread = [(profile, steepest_rises(-profile.values)) for profile in spread_profiles(trace)]
        gradient = [(profile, steepest_rises(profile.values)) for profile in gradient_profiles(trace)]
        enough_layers(trace, spread, Quantity.OUTPUT)
        samples = [(profile, steepest_rises(-profile.values)) for profile in _samples_in_order(trace, gradient)]
        falling = [self._falling(trace, *each) for each in spread]
        fading = [self._fading(trace, *each) for each in gradient]
        blurring = [steady(rises, decades=self.min_decades, gain=DECAY) for _, rises in samples]
        found = [
            *(("the gradient", *each) for each in steepest(trace, gradient, fading)),
            *(("the output's spread", *each) for each in steepest(trace, spread, falling)),
            *((SAMPLES, *each) for each in steepest(trace, samples, blurring)),
        ]
        if found:
            what, stretch, lasting = found[0]
            yield self._finding(trace, stretch, lasting, what)

    def _falling(self, trace: Trace, profile: Profile, rises: Rises) -> Bools:
        """Where the outputs get smaller, unless weights above that scale say that something else makes them."""
        with np.errstate(invalid="ignore"):
            driven = ~(scale_along(trace, profile, rises) > 1)
        return steady(rises, decades=self.min_decades, gain=DECAY) & driven

    def _fading(self, trace: Trace, profile: Profile, rises: Rises) -> Bools:
        """Where the gradient does, over layers with small weights and nothing that leads around them."""
        with np.errstate(invalid="ignore"):
            small = (scale_along(trace, profile, rises) <= self.small_scale) & ~joins_along(profile, rises)
        return steady(rises, decades=self.min_decades, gain=DECAY) & small

    def _finding(self, trace: Trace, stretch: Stretch, lasting: Persistence, what: str) -> Finding:
        grave = stretch.decades >= self.error_decades and lasting.standing
        small = _small_from(trace, stretch)
        where = module_of(stretch.layers[small])
        first_small = f"; {where} is the first of them" if small else ""
        behind = tuple(layer for layer in stretch.driving if layer.depth >= stretch.layers[small].depth)
        advice = replace(stretch, driving=behind).weight_advice(trace, "larger")
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if grave else Severity.WARNING,
            module=where,
            sites=stretch.sites,
            first_step=stretch.first_step,
            last_step=stretch.last_step,
            measured=stretch.decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The signal dies out between {stretch.early} and {stretch.late}: {what} loses {stretch.decades:.1f}"
                f" decades over {len(stretch.layers)} layers, a factor of {number(10**-stretch.per_layer)} per layer,"
                f" {stretch.when}."
            ),
            cause=(
                f"{stretch.weights[0].upper()}{stretch.weights[1:]}{first_small}; a layer passes a difference"
                " between inputs forward as it passes the gradient back."
            ),
            remedy=(
                "Let the shortcuts around the blocks pass on what they are given, with a factor of 1."
                if what == SAMPLES
                else f"{advice}; or put normalisation layers between."
            ),
        )


def _small_from(trace: Trace, stretch: Stretch) -> int:
    """Index of the first place of the stretch whose weights are about as small as those of most of it; 0 if unknown."""
    drawn = trace.statistics[Statistic.RMS][stretch.rows[0]]
    usual = float(np.median([drawn[layer.weight] for layer in stretch.driving])) if stretch.driving else np.nan
    for index, place in enumerate(stretch.layers):
        if not isinstance(place, Layer):
            return index
        scale = float(relative_scale(trace, place)[stretch.rows[0]]) / stretch.scale
        if not (scale > _MUCH_LARGER or (scale > _LARGER and drawn[place.weight] > _LARGER * usual)):
            return index
    return 0


def _samples_in_order(trace: Trace, gradient: Judged) -> tuple[Profile, ...]:
    """What tells samples apart in the branches of a residual net, all of which are given the stream.

    Sigmoids lose it by their slopes, whatever the weights: then the gradient tells the story (GS101).
    """
    flow = flow_of(trace)
    if flow is None:
        return ()
    joins = {place.module for profile, _ in gradient for place in profile.layers if not isinstance(place, Layer)}
    sums = any(end.module in joins and _SUM in by for (_, end), by in flow.through.items())
    backbone = set(flow.backbone)
    through = {s.module_type for s in trace.sites if s.module in backbone}
    flat = any(LARGEST_SLOPE.get(kind, 1.0) * DECAY < 1 for kind in through)
    return spread_in_order(trace, Statistic.SAMPLE_SPREAD) if sums and not flat else ()

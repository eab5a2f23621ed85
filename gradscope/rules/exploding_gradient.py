"""GS102: the gradient grows geometrically on its way to the input."""

from collections.abc import Iterator
from dataclasses import dataclass

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.gain import LEAST_LAYERS, steady_growth, steepest_rises
from gradscope.rules.layers import profile_of
from gradscope.rules.persistence import persistence
from gradscope.rules.stretch import stretch_of
from gradscope.rules.wording import number
from gradscope.trace import Trace


@dataclass(frozen=True)
class ExplodingGradient(Rule):
    """Each layer passes back a multiple of the gradient it receives.

    What it means: the early layers take steps that are far too large for them, or no learning rate serves all layers.
    How it is measured: ‖∂L/∂y‖₂ of every layer with a weight, before its activation function, against depth: not the
        gradients of the parameters, in which a forward signal that grows cancels a gradient that shrinks.
    Why the threshold: 1.6 per layer lies between BatchNorm with ReLU (1.21, healthy) and twice the He scale (2, sick).
        A growth of 1.5 decades counts if the run begins with it; a network that learns makes its layers larger, so
        what training has made counts from 3 decades on. It is an error from 4 decades on.
    What to try: the initialisation that the activation asks for, normalisation, a lower learning rate; clipping treats
        the symptom.
    Where it stays silent: growth of less than 1.6 per layer, such as BatchNorm's; one spike; fewer than four layers.
    Source: Glorot & Bengio 2010, section 4.2; He et al. 2015, section 2.2; Yang et al. 2019 for BatchNorm.
    """

    code = "GS102"
    name = "exploding-gradient"
    reads = frozenset({Quantity.OUTPUT_GRAD, Quantity.WEIGHT})

    min_decades: float = 1.5
    learned_decades: float = 3.0
    error_decades: float = 4.0

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: the steepest stretch."""
        profile = profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)
        if len(profile.layers) < LEAST_LAYERS:
            raise NotJudged(
                f"needs the gradient at {LEAST_LAYERS} layers with a weight, the trace has {len(profile.layers)}"
            )
        rises = steepest_rises(-profile.values)
        if not rises.known.any():
            raise NotJudged(f"in no step was a gradient that is finite and not zero seen at {LEAST_LAYERS} layers")
        growing = steady_growth(rises, from_start=self.min_decades, grown=self.learned_decades)
        lasting = persistence(growing, rises.known)
        if lasting is None:
            return
        stretch = stretch_of(trace, profile, rises, lasting)
        built_so = not stretch.scale <= 1 and lasting.first == 0
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if stretch.decades >= self.error_decades else Severity.WARNING,
            module=stretch.layers[0].module,
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
            cause=f"{stretch.weights[0].upper()}{stretch.weights[1:]}.",
            remedy=(
                f"{stretch.weight_advice(trace, 'smaller')}; or put normalisation layers between."
                if built_so
                else "Lower the learning rate, or put a normalisation layer after each of these layers."
            ),
        )

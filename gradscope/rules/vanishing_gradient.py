"""GS101: the gradient shrinks geometrically on its way to the input."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.activations import LARGEST_SLOPE
from gradscope.rules.base import Rule
from gradscope.rules.chains import gradient_profiles
from gradscope.rules.gain import DECAY, steady, steepest_rises
from gradscope.rules.layers import Layer
from gradscope.rules.learning import Optimizer, norms, optimizer_of
from gradscope.rules.persistence import Persistence
from gradscope.rules.stretch import Stretch, decades_in_words, enough_layers, other_remedy, steepest, way_back
from gradscope.rules.transmission import Transmission, transmission_of_activations
from gradscope.rules.wording import number
from gradscope.trace import Trace


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """Each layer passes back only a fraction of the gradient it receives.

    What it means: the early layers barely learn, while the late ones do.
    How it is measured: ‖∂L/∂y‖₂ of every layer with a weight, before its activation function, and of every tensor at
        which branches join, along a path that everything goes through: parallel branches are no chain. Where weights
        are the model's own, `x @ self.w1`, of every activation function called between them. Over the steepest
        stretch of at least four places, the end-to-end loss in decades and the median gain per layer. A factor on the
        loss cancels.
    Why the threshold: a gain of 1 preserves the gradient; BatchNorm with ReLU has 1.21 and is healthy, so a loss
        counts as a slope from 1/1.25 per layer on. Three decades, because with less one learning rate can still serve
        both ends: three Sigmoid layers lose 2.5 and learn. It is an error from six decades on, or where the relative
        update of the early layers is a thousandth of that of the late ones: Adam divides the scale out until the
        gradient falls under its eps, SGD does not.
    What to try: ReLU-like activations with He initialisation, normalisation, residual connections.
    Where it stays silent: one layer that passes on little is no slope; a loss that heals within a fifth of the run;
        fewer than four layers; layers that get no gradient at all (GS103).
    Source: Glorot & Bengio 2010, section 4.2; He et al. 2015, section 2.2; Yang et al. 2019 for BatchNorm.
    """

    code = "GS101"
    name = "vanishing-gradient"
    reads = frozenset({Quantity.OUTPUT_GRAD, Quantity.WEIGHT})

    min_decades: float = 3.0
    error_decades: float = 6.0
    starving: float = 1e-3  # relative update of the earliest layer against that of the last

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: the steepest stretch."""
        judged = [(profile, steepest_rises(profile.values)) for profile in gradient_profiles(trace)]
        enough_layers(trace, judged, Quantity.OUTPUT_GRAD)
        steep = [steady(rises, decades=self.min_decades, gain=DECAY) for _, rises in judged]
        for stretch, lasting in steepest(trace, judged, steep):
            yield self._finding(trace, stretch, lasting)

    def _finding(self, trace: Trace, stretch: Stretch, lasting: Persistence) -> Finding:
        starved = relative_progress(trace, stretch)
        grave = stretch.decades >= self.error_decades or starved <= self.starving
        budget = way_back(trace, stretch)
        passed = transmission_of_activations(trace, stretch.rows, stretch.layers[0].depth, stretch.layers[-1].depth)
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if grave and lasting.standing else Severity.WARNING,
            module=stretch.where,
            sites=stretch.sites,
            first_step=stretch.first_step,
            last_step=stretch.last_step,
            measured=stretch.decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The gradient loses {stretch.decades:.1f} decades between {stretch.late} and {stretch.early} over"
                f" {len(stretch.layers)} layers, a factor of {number(10**-stretch.per_layer)} per layer, {stretch.when}"
                f" ({lasting.share:.0%} of those with a gradient)."
            ),
            cause=_cause(stretch, passed, decades_in_words(budget)) + _consequence(optimizer_of(trace), starved),
            remedy=other_remedy(budget) or _remedy(trace, stretch, passed),
        )


def relative_progress(trace: Trace, stretch: Stretch) -> float:
    """Update ratio of the earliest layer over that of the last, median over the steps; NaN without updates."""
    if not stretch.driving:
        return float("nan")
    ratios = []
    first = stretch.layers[0] if isinstance(stretch.layers[0], Layer) else stretch.driving[0]
    for layer in (first, stretch.driving[-1]):
        owned = trace.sites[layer.weight]
        update = trace.columns(Quantity.WEIGHT_UPDATE, owned.module, owned.name)
        moved = norms(trace, update[0] if update else None)[stretch.rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(moved / norms(trace, layer.weight)[stretch.rows])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = ratios[0] / ratios[1]
    relative = relative[np.isfinite(relative)]
    return float(np.median(relative)) if len(relative) else float("nan")


def _cause(stretch: Stretch, passed: list[Transmission], decades: str) -> str:
    """Where the budget is known it tells what the activation functions pass back, too."""
    text = "; ".join([*map(str, [] if decades else passed), stretch.weights])
    return f"{text[0].upper()}{text[1:]}.{decades}"


def _consequence(optimizer: Optimizer, starved: float) -> str:
    if not np.isfinite(starved):
        return ""
    floor = f" {optimizer.name} divides the scale out, down to its eps of {optimizer.eps:g}."
    held = floor if optimizer.adaptive else ""
    if starved == 0:
        return f" The first layer does not move at all.{held}"
    return f" The relative update of the first layer is {number(starved)} times that of the last.{held}"


def _remedy(trace: Trace, stretch: Stretch, passed: list[Transmission]) -> str:
    worst = passed[0].module_type if passed else ""
    if worst in LARGEST_SLOPE and LARGEST_SLOPE[worst] * DECAY < 1:
        return (
            f"Replace the {worst}s by ReLU or GELU with He initialisation, or put a normalisation layer before each;"
            " with many layers add residual connections."
        )
    if stretch.scale < 1 / DECAY:
        return f"{stretch.weight_advice(trace, 'larger')}; or add normalisation or residual connections."
    return "Add residual connections or normalisation layers between them, or use fewer layers."

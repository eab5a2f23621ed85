"""GS302: units of a bounded activation that are stuck at a bound."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.activations import LARGEST_SLOPE, has_activation_of
from gradscope.rules.base import Rule
from gradscope.rules.layers import Layer, fan_in, learned_layers, size_of
from gradscope.rules.learning import norms
from gradscope.rules.persistence import persistence
from gradscope.rules.stuck import Stuck, and_others, gathered
from gradscope.rules.wording import number
from gradscope.trace import Ints, Trace


@dataclass(frozen=True)
class Saturation(Rule):
    """Most outputs of a bounded activation lie where its slope is almost zero.

    What it means: the layers before it get almost no gradient through it, and it hardly tells its inputs apart.
    How it is measured: saturated_fraction, the share of elements where the slope is below 5 % of its largest.
    Why the threshold: with pre-activations of standard deviation s, a Tanh saturates at |x| > 2.18; 70 % of the
        elements do so from s = 5.7 on, where an initialisation that keeps the spread has s = 1. There the gradient
        passes with √E[φ′²] = 0.3. From 95 % on (s = 35) it passes with 0.12.
    What to try: smaller initial weights, scaled inputs, normalisation before the activation.
    Where it stays silent: the last activation before the output, which is meant to reach its bounds; a gate beside a
        path that carries the gradient; what heals.
    Source: Glorot & Bengio 2010, section 3; the figures are Gaussian integrals.
    """

    code = "GS302"
    name = "saturation"
    reads = frozenset({Quantity.OUTPUT})

    warn_fraction: float = 0.7
    error_fraction: float = 0.95
    min_steps: int = 3
    bypass: float = 10.0  # gradient that reaches the layer before by other paths, over what it can owe to this one

    def concerns(self, trace: Trace) -> bool:
        """Models with a bounded activation."""
        return has_activation_of(trace, frozenset(LARGEST_SLOPE))

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each run of neighbouring activations, or one for all where there are many runs."""
        layers = learned_layers(trace)
        deepest = max((layer.depth for layer in layers), default=0)
        sites, saturated = trace.by_depth(Quantity.OUTPUT, Statistic.SATURATED_FRACTION)
        inner = [i for i, s in enumerate(sites) if s.module_type in LARGEST_SLOPE and s.depth < deepest]
        judged = [i for i in inner if (~np.isnan(saturated[:, i])).sum() >= self.min_steps]
        if not judged:
            raise NotJudged(f"needs a bounded activation before the last layer in {self.min_steps} recorded steps")
        found: list[Stuck | None] = []
        for i in judged:
            share = saturated[:, i].astype(np.float64)
            lasting = persistence(share >= self.warn_fraction, ~np.isnan(share))
            before = [layer for layer in layers if layer.depth < sites[i].depth]
            stands = lasting is not None and lasting.standing
            if lasting is None or not stands or (before and self._is_gate(trace, before[-1], lasting.rows)):
                found.append(None)
            else:
                found.append(Stuck(site=sites[i], lasting=lasting, share=share, bar=self.warn_fraction))
        for stuck, group in gathered(found):
            yield self._finding(trace, stuck, group)

    def _is_gate(self, trace: Trace, layer: Layer, rows: Ints) -> bool:
        """Whether the input of `layer` gets most of its gradient by another path than through `layer`."""
        given, returned = (
            trace.columns(quantity, layer.module) for quantity in (Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD)
        )
        if not given or not returned:
            return False
        rms = trace.statistics[Statistic.RMS][:, layer.weight].astype(np.float64)
        width = fan_in(trace, layer)
        width = max(width, size_of(trace, layer.weight) / width)  # what ‖Wᵀg‖ sums over; a bound for convolutions
        through = norms(trace, returned[0]) * rms * np.sqrt(width)
        with np.errstate(divide="ignore", invalid="ignore"):
            other = (norms(trace, given[0]) / through)[rows]
        other = other[~np.isnan(other)]
        return bool(len(other)) and float(np.median(other)) > self.bypass

    def _finding(self, trace: Trace, stuck: Stuck, group: tuple[Site, ...]) -> Finding:
        site, lasting = stuck.site, stuck.lasting
        share = float(np.median(stuck.share[lasting.rows]))
        first, last = int(trace.steps[lasting.first]), int(trace.steps[lasting.last])
        before = [layer.module for layer in learned_layers(trace) if layer.depth < site.depth]
        cause = f"A {site.module_type} is steep only near zero"
        remedy = f"Scale down what {site.module} is given, or put a normalisation layer before it."
        if before and (given := trace.columns(Quantity.OUTPUT, before[-1])):
            rms = float(np.nanmedian(trace.statistics[Statistic.RMS][lasting.rows, given[0]]))
            cause += f"; {before[-1]} gives it values with an rms of {number(rms)}"
            if rms > 1:
                remedy = (
                    f"Bring what {before[-1]} gives to an rms near 1: divide its weights, or its inputs, by"
                    f" {number(rms)}, or put a normalisation layer between the two."
                )
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if share >= self.error_fraction else Severity.WARNING,
            module=site.module,
            sites=group,
            alike=tuple(s.module for s in group),
            first_step=first,
            last_step=last,
            measured=share,
            threshold=self.warn_fraction,
            unit="share of elements",
            message=(
                f"{share:.0%} of the outputs of {site.module} are stuck at a bound since step {first}"
                f"{and_others(group)}."
            ),
            cause=cause + ".",
            remedy=remedy,
        )

"""GS302: units of a bounded activation that are stuck at a bound."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.activations import LARGEST_SLOPE, has_activation_of
from gradscope.rules.base import Rule
from gradscope.rules.gain import BEGINNING, Bools
from gradscope.rules.gate_slopes import GatedLayer, gated_layers, softmax_slopes
from gradscope.rules.layers import Layer, fan_in, learned_layers, relative_scale, size_of
from gradscope.rules.learning import norms
from gradscope.rules.losses import has_fallen
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.shut_gates import ShutGate, shut_gates
from gradscope.rules.stuck import Stuck, and_others, gathered, giver_of, place_of
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace

_LARGE_INPUT = 5.0  # rms; normalised data have 1


@dataclass(frozen=True)
class Saturation(Rule):
    """Most outputs of a bounded activation lie where its slope is almost zero.

    What it means: the layers before it get almost no gradient through it, and it hardly tells its inputs apart.
    How it is measured: saturated_fraction, the share of elements where the slope is below 5 % of its largest; of a
        recurrent layer the mean slope of each gate over its largest, 4 (mean − rms²) of a sigmoid, 1 − rms² of a tanh;
        of a softmax over n elements (1 − n · rms²) / (1 − 1/n).
    Why the threshold: with pre-activations of standard deviation s, a Tanh saturates at |x| > 2.18; 70 % of the
        elements do so from s = 5.7 on, where an initialisation that keeps the spread has s = 1. There the gradient
        passes with √E[φ′²] = 0.3. From 95 % on (s = 35) it passes with 0.12. At s = 5.7 the mean slope is 0.14, at 35
        it is 0.02: a recurrent layer is stuck where the steepest of its gates has less than 0.1, an error below 0.03.
        A softmax over classes or experts is stuck below 0.03, where all but one in 33 of its choices are made.
        A gate that lets through less than 1e-3 for whatever unit and input, from the first record on, is shut: what it
        is multiplied with is made as if for nothing.
    What to try: smaller initial weights, scaled inputs, normalisation before the activation.
    Where it stays silent: the last activation before the output, which is meant to reach its bounds, unless it was
        stuck from the first record on and in all of them; a gate beside a path that carries the gradient, unless it
        was shut for all from the start and does not open, and single gates of a recurrent layer, as a forget gate that
        keeps its state; what heals. What training has brought to its bounds while it halved the loss is only worth
        knowing.
    Source: Glorot & Bengio 2010, section 3; the figures are Gaussian integrals.
    """

    code = "GS302"
    name = "saturation"
    reads = frozenset({Quantity.OUTPUT})

    warn_fraction: float = 0.7
    error_fraction: float = 0.95
    min_steps: int = 3
    gate_slope: float = 0.1
    error_gate_slope: float = 0.03
    error_opening: float = 1e-6
    learned_loss: float = 0.5  # of the first: a net that got there makes use of its bounds
    bypass: float = 10.0  # gradient that reaches the layer before by other paths, over what it can owe to this one

    def concerns(self, trace: Trace) -> bool:
        """Models with a bounded activation, be it inside of a recurrent layer, or a softmax."""
        bounded = has_activation_of(trace, frozenset(LARGEST_SLOPE))
        return bounded or bool(gated_layers(trace)) or bool(softmax_slopes(trace))

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each run of neighbouring activations, or one for all where there are many runs."""
        layers = learned_layers(trace)
        deepest = max((layer.depth for layer in layers), default=0)
        sites, saturated = trace.by_depth(Quantity.OUTPUT, Statistic.SATURATED_FRACTION)
        bounded = [i for i, s in enumerate(sites) if s.module_type in LARGEST_SLOPE]
        judged = [i for i in bounded if (~np.isnan(saturated[:, i])).sum() >= self.min_steps]
        recurrent = [layer for layer in gated_layers(trace) if _seen(layer.steepest).sum() >= self.min_steps]
        chosen = {c: slope for c, slope in softmax_slopes(trace).items() if _seen(slope).sum() >= self.min_steps}
        shut = {gate.site: gate for gate in shut_gates(trace)}
        if not recurrent and not judged and not chosen and not shut:
            raise NotJudged(f"needs a bounded activation in {self.min_steps} recorded steps")
        found: list[Stuck | None] = []
        for i in judged:
            share = saturated[:, i].astype(np.float64)
            lasting = persistence(share >= self.warn_fraction, ~np.isnan(share))
            before = [layer for layer in layers if layer.depth < sites[i].depth]
            stands = lasting is not None and lasting.standing
            meant = sites[i].depth > deepest and np.nanmin(share) < self.warn_fraction
            silent = meant or sites[i] in shut
            if lasting is None or not stands or silent or (before and self._is_gate(trace, before[-1], lasting.rows)):
                found.append(None)
            else:
                found.append(Stuck(site=sites[i], lasting=lasting, share=share, bar=self.warn_fraction))
        for stuck, group in gathered(found):
            yield self._finding(trace, stuck, group)
        if shut:
            yield self._of_gates(trace, list(shut.values()))
        for layer in recurrent:
            lasting = persistence(layer.steepest < self.gate_slope, _seen(layer.steepest))
            if lasting is not None and lasting.standing:
                yield self._of_recurrence(trace, layer, lasting)
        for column, slope in chosen.items():
            sick = slope < self.error_gate_slope
            lasting = persistence(sick, _seen(slope))
            begun = sick[_seen(slope)][:BEGINNING].all()
            if begun and lasting is not None and lasting.standing and _is_asked(trace, column, lasting.rows):
                yield self._of_softmax(trace, column, slope, lasting)

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

    def _of_recurrence(self, trace: Trace, layer: GatedLayer, lasting: Persistence) -> Finding:
        slopes = np.median(layer.slopes[lasting.rows], axis=0)
        steepest = float(np.median(layer.steepest[lasting.rows]))
        first = int(trace.steps[lasting.first])
        names = [site.name.partition("_")[0] for site in layer.sites]
        each = ", ".join(f"{name} {number(slope)}" for name, slope in zip(names, slopes, strict=True))
        cause, remedy = _driven(trace, layer, lasting.rows)
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if steepest < self.error_gate_slope else Severity.WARNING,
            module=layer.module,
            sites=layer.sites,
            first_step=first,
            last_step=int(trace.steps[lasting.last]),
            measured=steepest,
            threshold=self.gate_slope,
            unit="mean slope over the largest",
            message=(
                f"Every gate of {layer.module} is stuck at its bounds since step {first}: the mean slopes are"
                f" {number(steepest)} of the largest at most ({each})."
            ),
            cause=cause,
            remedy=remedy,
        )

    def _of_softmax(self, trace: Trace, column: int, slope: Doubles, lasting: Persistence) -> Finding:
        site, typical = trace.sites[column], float(np.median(slope[lasting.rows]))
        first, last = int(trace.steps[lasting.first]), int(trace.steps[lasting.last])
        giver = giver_of(trace, site)
        given = "what it is given" if giver is None else f"what {trace.sites[giver].module} returns"
        rms = float("nan") if giver is None else float(trace.statistics[Statistic.RMS][lasting.first, giver])
        size = f", with an rms of {number(rms)}," if np.isfinite(rms) else ""
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR,
            module=place_of(trace, site),
            sites=(site,),
            first_step=first,
            last_step=last,
            measured=typical,
            threshold=self.error_gate_slope,
            unit="mean slope over the largest",
            message=(
                f"{site.module} chooses a single element of each row since step {first}: its mean slope is"
                f" {number(typical)} of the largest."
            ),
            cause=f"A softmax is steep only where several elements compete; {given}{size} decides before it learns.",
            remedy=f"Make the logits of {site.module} smaller: start their layer with small weights and a bias of zero,"
            " and divide by no temperature below 1.",
        )

    def _of_gates(self, trace: Trace, shut: list[ShutGate]) -> Finding:
        gate = shut[0]
        opening, giver = float(np.median(gate.opening[gate.lasting.rows])), giver_of(trace, gate.site)
        first, last = int(trace.steps[gate.lasting.first]), int(trace.steps[gate.lasting.last])
        given = ""
        if giver is not None:
            mean = float(trace.statistics[Statistic.MEAN][gate.lasting.first, giver])
            given = f"; {trace.sites[giver].module} gives it values with a mean of {number(mean)} at step {first}"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if opening <= self.error_opening else Severity.WARNING,
            module=place_of(trace, gate.site),
            sites=tuple(site for one in shut for site in (one.site, one.starved)),
            alike=tuple(place_of(trace, one.site) for one in shut),
            first_step=first,
            last_step=last,
            measured=opening,
            threshold=1e-3,
            unit="largest opening",
            message=(
                f"The gate {gate.site.module} is shut for all its units and inputs since step {first}: it lets"
                f" {number(opening)} through at most{and_others(tuple(one.site for one in shut))}."
            ),
            cause=f"What {gate.starved.module} returns is multiplied with it, and so is the gradient{given}.",
            remedy=f"Start the bias of what makes {gate.site.module} between −3 and 1: the gate is then partly open.",
        )

    def _finding(self, trace: Trace, stuck: Stuck, group: tuple[Site, ...]) -> Finding:
        site, lasting = stuck.site, stuck.lasting
        share = float(np.median(stuck.share[lasting.rows]))
        first, last = int(trace.steps[lasting.first]), int(trace.steps[lasting.last])
        before = [layer for layer in learned_layers(trace) if layer.depth < site.depth][-1:]
        cause = f"A {site.module_type} is steep only near zero"
        remedy = f"Put a normalisation layer before {site.module}."
        if before and (given := trace.columns(Quantity.OUTPUT, before[0].module)):
            layer, rms = before[0], float(np.nanmedian(trace.statistics[Statistic.RMS][lasting.rows, given[0]]))
            cause += f"; {layer.module} gives it values with an rms of {number(rms)}"
            if rms > 1:
                # rms is about their product: the scale of its weights and the rms of what it is given
                by_weights = relative_scale(trace, layer)[lasting.first] ** 2 >= rms
                what = f"the weights of {layer.module}" if by_weights else f"what {layer.module} is given"
                remedy = f"Divide {what} by {number(rms)}: {site.module} is then given values with an rms near 1."
        grave = Severity.ERROR if share >= self.error_fraction else Severity.WARNING
        learned = lasting.first >= BEGINNING and has_fallen(trace, to=self.learned_loss)
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.INFO if learned else grave,
            module=place_of(trace, site),
            sites=group,
            alike=tuple(place_of(trace, s) for s in group),
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


def _is_asked(trace: Trace, column: int, rows: Ints) -> bool:
    """Whether the loss hands a gradient back to that output."""
    site = trace.sites[column]
    given = [norms(trace, c)[rows] for c in trace.columns(Quantity.OUTPUT_GRAD, site.module, site.name)]
    return any(bool((g > 0).any()) for g in given)


def _seen(values: Doubles) -> Bools:
    return ~np.isnan(values)


def _driven(trace: Trace, layer: GatedLayer, rows: Ints) -> tuple[str, str]:
    """What drives a recurrent layer into its bounds, and what to do about it: its input, or else its weights."""
    weights = {trace.sites[c].name: c for c in trace.columns(Quantity.WEIGHT, layer.module)}
    own = {name: float(trace.statistics[Statistic.RMS][rows[0], c]) for name, c in weights.items() if "weight" in name}
    at = layer.sites[0].depth
    before = [c for c in trace.columns(Quantity.OUTPUT) if 0 < trace.sites[c].depth < at]
    given = before[-1:] or trace.columns(Quantity.INPUT)[:1]
    rms = float(np.nanmedian(trace.statistics[Statistic.RMS][rows, given[0]])) if given else float("nan")
    source = (trace.sites[given[0]].module or "the data") if given else ""
    written = "; ".join(f"{name} has an rms of {number(value)}" for name, value in own.items())
    text = f"It is given values with an rms of {number(rms)} by {source}" if given else "What it is given was not seen"
    cause = f"{text}; {written}." if written else f"{text}."
    if rms > _LARGE_INPUT:
        return cause, f"Divide what {layer.module} is given by {number(rms)}, or normalise it."
    widths = [fan_in(trace, one) for one in learned_layers(trace) if one.module == layer.module]
    asked = f", {number(1 / math.sqrt(3 * widths[0]))} or so" if widths else ""
    return (
        cause,
        f"Draw the weights of {layer.module} as small as torch does by default: with std 1/√(3 hidden){asked}.",
    )

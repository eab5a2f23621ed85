"""GS104: the loss hands back nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.cut import cuts
from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.faint_loss import faint_finding, faintness
from gradscope.rules.idle_heads import idle_finding, idle_heads
from gradscope.rules.layers import learned_layers
from gradscope.rules.learning import effective_update_ratios, has_optimizer, promised, trainable_parameters
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Trace

_BEFORE = 5  # steps that tell where the loss stood


@dataclass(frozen=True)
class ZeroLossGradient(Rule):
    """The loss is computed, but its gradient with respect to what the model returns is zero, or as good as zero.

    What it means: nothing in the model can learn, and the fault lies behind its last layer: in the loss, or in a
        function on the way to it.
    How it is measured: the share of the loss that would change if an output changed by as much as itself,
        ‖∂L/∂y‖ · ‖y‖ / |L|, the largest over all outputs up to the last layer that has weights. It does not change
        when the loss or the outputs are scaled. An output a thousand times smaller than another is taken to change by
        as much as that one: it has died away inside the model, which is no fault of the loss. Where no backward pass
        reached the model at all it is zero.
    Why the threshold: a loss that depends on the outputs moves by about as much as they do: the share is near one for
        squared errors and cross-entropies, and larger once the loss is small. A millionth is what float32 rounds away;
        a thousandth counts where no weight moves by more than 1e-7 of its norm, float32's rounding, in a step.
        Nearly all steps, the first among them: a margin loss that training has brought to zero has done its work. Nine
        tenths are enough where nothing came in the last quarter of the run and else only the tip of a loss, a thirtieth
        of what the outputs would change it by: of a margin that is met by chance, not of a mistake or a reward.
        Exactly nothing from some step on, for a quarter of the run and ten steps, counts where the loss had not
        come down to half of the first by then, nor could the last step take half of it off: Σ ‖∂L/∂w‖ ‖Δw‖ / L.
        A slope of 1e-4 or less, ‖∂L/∂y‖ √n of what is near 1 for a mean over n elements, counts where it leaves all
        weights where they are, at a rate that would move them. An output by itself counts where it is handed exactly
        zero in every step while others learn.
    What to try: a loss whose slope is not zero where the outputs are now: a larger margin, no clamp, no rounding or
        argmax on the way.
    Where it stays silent: losses that become zero in training; steps without a reward, or that a gradient scaler has
        skipped; a path that the model itself cuts; an output that the loss does not use, which gets no gradient at all.
    Source: follows from the chain rule.
    """

    code = "GS104"
    name = "zero-loss-gradient"
    reads = frozenset({Quantity.OUTPUT})

    max_share: float = 1e-6
    max_still: float = 1e-3
    max_update: float = 1e-7
    faded: float = 1e-3
    min_steps: int = 3
    min_share_of_steps: float = 0.98
    min_share_of_tips: float = 0.9
    tip: float = 30.0
    stopped_share: float = 0.25
    stopped_steps: int = 10
    unlearned: float = 0.5  # of the first loss

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding for the model as a whole; else one for each of its heads that gets nothing."""
        columns = trace.columns(Quantity.OUTPUT)
        ran = (trace.statistics[Statistic.NUMEL][:, columns] > 0).any(axis=1)  # an empty batch says nothing
        skipped = {event.step for event in trace.events if event.kind == "step-skipped"}
        judged = np.flatnonzero(ran & ~np.isin(trace.steps, list(skipped)))
        if len(judged) < self.min_steps:
            raise NotJudged(
                f"needs {self.min_steps} steps with outputs that are not empty, the trace has {len(judged)}"
            )
        reached = _was_observed(trace, Quantity.OUTPUT_GRAD)[judged]
        if not reached.any() and (_was_observed(trace, Quantity.WEIGHT_GRAD).any() or not has_optimizer(trace)):
            raise NotJudged("needs the gradient of what modules return; the trace has none")
        if not reached.any() and cuts(trace.meta):
            return  # the model takes its own output out of the graph
        share = np.where(reached, _moved_loss(trace, self.faded)[judged], 0.0)
        moved = np.where(reached, _moved_weights(trace)[judged], 0.0)
        nothing = (share <= self.max_share) | ((share <= self.max_still) & (moved <= self.max_update))
        if not (nothing[: self.min_steps].all() and self._nearly_all(nothing, share)):
            nothing = self._stopped(trace.per_step["loss"][judged], promised(trace)[judged], (share == 0) & reached)
        if nothing.any():
            yield self._finding(trace, judged[nothing], share[nothing], none=not reached.any())
            return
        slope = faintness(trace)
        if slope is not None:
            yield faint_finding(self.code, self.name, trace, _last_output(trace), slope)
            return
        for site in idle_heads(trace, self.min_steps):
            yield idle_finding(self.code, self.name, trace, site)

    def _nearly_all(self, nothing: NDArray[np.bool_], share: Doubles) -> bool:
        """Whether the steps with something are too few to tell of, or few, early, and mere tips of a loss."""
        last = nothing[-max(self.min_steps, len(nothing) // 4) :]
        tips = bool(last.all()) and bool((share[~nothing] >= self.tip).all())
        return float(nothing.mean()) >= (self.min_share_of_tips if tips else self.min_share_of_steps)

    def _stopped(self, loss: Doubles, promises: Doubles, nothing: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The steps to the end without any gradient, if it was no step that brought them about; else none."""
        none = np.zeros(len(nothing), bool)
        something = np.flatnonzero(~nothing)
        start = int(something[-1]) + 1 if len(something) else 0
        before, first = loss[:start][-_BEFORE:], loss[: self.min_steps]
        some = len(before) == _BEFORE and not nothing[start - _BEFORE : start].any() and np.isfinite(before).all()
        if not some or len(nothing) - start < max(self.stopped_steps, self.stopped_share * len(nothing)):
            return none
        could = float(np.nan_to_num(promises[start - 1], posinf=np.inf)) >= self.unlearned
        if not could and float(np.min(before)) > self.unlearned * float(np.median(first)) > 0:
            none[start:] = True
        return none

    def _finding(self, trace: Trace, judged: NDArray[np.intp], share: Doubles, *, none: bool) -> Finding:
        site = _last_output(trace)
        where = site.module
        first, last = int(trace.steps[judged[0]]), int(trace.steps[judged[-1]])
        loss = trace.per_step["loss"][judged]
        loss = loss[np.isfinite(loss)]
        said = f"; the loss was {number(loss[0])} at first and {number(loss[-1])} in the end" if len(loss) else ""
        nothing = float(np.max(share)) == 0
        if none:
            what = f"No backward pass reached the model in {len(judged)} recorded steps{said}."
            cause = "The loss does not hang on what the model returned: it was detached, made with .item(), argmax or"
            cause += " a comparison, or the optimizer stepped without a backward."
            remedy = f"Compute the loss from what {where or 'the model'} returns, without detach(), .item() or argmax."
        else:
            size = "exactly zero" if nothing else f"at most {float(np.max(share)):.1g} of the loss"
            what = (
                f"What the loss hands back to {where or 'the model'} is {size} in {len(judged)} recorded steps{said}."
            )
            since = f"since step {first}" if judged[0] >= self.stopped_steps else "from the start"
            cause, remedy = _why(trace, site, loss, nothing=nothing, since=since)
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR,
            module=where,
            sites=(site,),
            first_step=first,
            last_step=last,
            measured=float(np.median(share)),
            threshold=self.max_share if np.median(share) <= self.max_share else self.max_still,
            unit="share of the loss",
            message=what,
            cause=cause,
            remedy=remedy,
        )


def _why(trace: Trace, site: Site, loss: Doubles, *, nothing: bool, since: str) -> tuple[str, str]:
    """Cause and remedy, from what the loss does."""
    column = next(c for c in trace.columns(Quantity.OUTPUT) if trace.sites[c] == site)
    low, high = (float(trace.statistics[s][0, column]) for s in (Statistic.MIN, Statistic.MAX))
    given = f"the outputs lie between {number(low)} and {number(high)} in the first recorded step"
    if not nothing:
        return (
            f"The function behind it is almost flat there, as a sigmoid, a softmax or its logarithm far out; {given}.",
            f"Bring the outputs of {site.module or 'the model'} to a size near 1, or compute the loss from them as"
            " logits (cross_entropy, binary_cross_entropy_with_logits), whose slope does not vanish where they are"
            " wrong.",
        )
    if len(loss) and not loss.any():
        return (
            f"The loss is zero {since}, as a margin that all samples meet makes it, or a zero factor; {given}.",
            "Set the margin (or the factor) so that the loss is above zero for these outputs.",
        )
    if len(loss) and np.ptp(loss) <= 1e-6 * abs(loss[0]):
        return (
            f"The loss is {number(loss[0])} in every step, whatever the batch, as a clamp makes it; {given}.",
            "Take off the clamp, or set its limits beyond the values that the loss has here.",
        )
    return (
        f"The loss changes with the batch, but not with small changes of the outputs: rounding, a comparison, argmax or"
        f" a flat part of a function lies between; {given}.",
        "Replace that function by a smooth one in the loss, such as cross-entropy for a count of errors.",
    )


def _moved_weights(trace: Trace) -> Doubles:
    """The largest update of a parameter over its norm, in each step; infinite where none was observed."""
    ratios = [effective_update_ratios(trace, p) for p in trainable_parameters(trace) if p.update is not None]
    if not ratios:
        return np.full(len(trace.steps), np.inf)
    return np.asarray(np.nan_to_num(np.fmax.reduce(np.stack(ratios)), nan=np.inf))


def _was_observed(trace: Trace, quantity: Quantity) -> NDArray[np.bool_]:
    """In which steps a site of `quantity` was."""
    columns = trace.columns(quantity)
    return np.asarray(~np.isnan(trace.statistics[Statistic.NUMEL][:, columns]).all(axis=1))


def _last_output(trace: Trace) -> Site:
    """The output of the layer that ran last; of the module that did, where none has weights."""
    owners = {layer.module for layer in learned_layers(trace)}
    sites = [trace.sites[c] for c in trace.columns(Quantity.OUTPUT)]
    sites = [site for site in sites if site.module in owners] or sites
    deepest = max(site.depth for site in sites)
    return next(site for site in sites if site.depth == deepest)


def _moved_loss(trace: Trace, faded: float) -> Doubles:
    """The largest share of the loss that an output moves, over the steps; infinite where a gradient is not finite.

    Where the loss was not recorded, or is zero, any gradient but zero counts as all of it.
    """
    output = {(s.module, s.name): c for c in trace.columns(Quantity.OUTPUT) for s in [trace.sites[c]]}
    loss = np.abs(trace.per_step["loss"])
    largest = np.zeros(len(trace.steps))
    with np.errstate(divide="ignore", invalid="ignore"):
        last = _last_output(trace).depth
        for column in trace.columns(Quantity.OUTPUT_GRAD):
            site = trace.sites[column]
            if site.depth > last:
                continue
            gradient = trace.statistics[Statistic.L2_NORM][:, column].astype(np.float64)
            broken = trace.statistics[Statistic.NONFINITE_COUNT][:, column] > 0
            given = output.get((site.module, site.name))
            size = np.nan if given is None else _size(trace, given, faded)
            share = gradient * size / loss
            share = np.where((gradient > 0) & ~np.isfinite(share), np.inf, np.nan_to_num(share, nan=0.0))
            largest = np.maximum(largest, np.where(broken, np.inf, share))
    return np.asarray(largest)


def _size(trace: Trace, output: int, faded: float) -> Doubles:
    """Norm of an output; that of the largest of all outputs, for as many elements, where it has all but died away."""
    outputs = trace.statistics[Statistic.RMS][:, trace.columns(Quantity.OUTPUT)].astype(np.float64)
    largest = np.max(np.where(np.isfinite(outputs), outputs, 0.0), axis=1)
    rms = trace.statistics[Statistic.RMS][:, output].astype(np.float64)
    elements = trace.statistics[Statistic.NUMEL][:, output].astype(np.float64)
    norm = trace.statistics[Statistic.L2_NORM][:, output].astype(np.float64)
    return np.asarray(np.where(rms < faded * largest, largest * np.sqrt(elements), norm))

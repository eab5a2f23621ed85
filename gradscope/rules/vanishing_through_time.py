"""GS201: the gradient fades on its way back along the sequence, so that the early part gets none."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.recurrence import Recurrence
from gradscope.rules.base import Rule
from gradscope.rules.gain import BEGINNING
from gradscope.rules.persistence import persistence
from gradscope.rules.through_time import (
    LEAST_LAG,
    STEADY,
    Bools,
    Lasting,
    by_step,
    gates,
    has_recurrence,
    is_plain,
    is_saturated,
    judged_recurrences,
    matrix,
    middle,
    recurrent_weight,
    sites_of,
    slope_clause,
    with_others,
    worst_of_each_module,
)
from gradscope.rules.wording import number, steps
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True)
class VanishingThroughTime(Rule):
    """Each time step passes back only a fraction of its gradient, so the early part of the sequence gets none.

    What it means: what stands early in the sequence cannot be learned, though the gradients of all weights look
        healthy: they are made up by the late steps alone.
    How it is measured: the gradient that arrives at each position, against the best-served one. `measured` is what the
        first half of the positions lacks, its best one, in decades. The median gain per time step must account for
        half of it over the lag, which is the distance that the gradient could travel. A factor on the loss cancels.
    Why the threshold: below a thousandth the early steps are drowned by the late ones in the gradient of the weights
        that all steps share. A gain of 0.5 per time step gets there within a lag of 20. Trained networks that use all
        of their sequence (LSTM, GRU and tanh RNN on 8 to 64 steps) end within 2 decades, those that never learn to at
        3 or more; an orthogonal RNN on 60 steps of unit noise lacks 2.3. Torch's default initialisation starts with a
        gain of 0.6, but on most tasks that heals within 20 to 100 steps, so only what stands at the end of the run
        counts. It is an error from four decades on, some eight at the first step, if it has stood for 100 steps and the
        loss has not fallen by a fifth: a forecast that needs but the last value can fall as little and be at its best.
        It is only noted (info) if the loss has fallen to a third since the run's first tenth and the layer keeps at
        least 0.4 per time step, with gates that are open by a tenth or more: who needs the last few values forgets like
        that, who keeps less was built so, and what fell then may have been the mean alone. So it is if it came about
        after the first tenth and the loss has fallen by a fifth: what trains well forgets what it has no use for.
    What to try: an LSTM or GRU whose gates begin open, an orthogonal or identity recurrent matrix, a loss or pooling
        over more of the positions.
    Where it stays silent: lags under 10, a loss at every step, pooling over time; the edge of a truncated window, which
        is a cut and no slope; one position that passes on little; what heals; a search for a fixed point, which is
        given the same at each position and forgets where it began.
    Source: Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013, section 2; Jozefowicz et al. 2015 and
        Tallec & Ollivier 2018 for the gates' bias; Le et al. 2015 for the identity.
    """

    code = "GS201"
    name = "vanishing-through-time"
    reads = frozenset()  # of cells and layers the gradients of their states, of loops what their layers were given

    min_decades: float = 3.0
    error_decades: float = 4.0
    error_steps: int = 100  # optimizer steps that it must have stood: default gates take up to as long to open
    moved: float = 0.8  # loss at the end over that of the first steps: something is being learned
    learned: float = 1 / 3  # over that of the run's first tenth: what the task needs is being learned
    usual_gain: float = 0.4  # per time step; default initialisation begins with 0.55 to 0.65
    usual_gate: float = 0.1  # mean of the forget or update gates; default initialisation begins with 0.5

    def concerns(self, trace: Trace) -> bool:
        """Models with a recurrence."""
        return has_recurrence(trace)

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding for each recurrent module: its worst layer and direction."""
        found, seen = [], False
        for recurrence in judged_recurrences(trace):
            missing = missing_decades(recurrence)
            known = ~np.isnan(missing) & (recurrence.lag >= LEAST_LAG)
            seen |= bool(known.any())
            if recurrence.refines:  # it is meant to forget where it began
                continue
            sick = known & (missing >= self.min_decades) & _steady(recurrence, missing)
            bad, judged = by_step(trace, recurrence, sick, known)
            bad = _unhealed(bad, judged)
            lasting = persistence(bad, judged)
            if lasting is not None and lasting.standing:
                rows = np.flatnonzero(sick & (recurrence.step >= lasting.first))
                found.append(Lasting(recurrence=recurrence, persistence=lasting, rows=rows, decades=missing))
        if not seen:
            raise NotJudged("needs a finite gradient in the first half of a sequence, no recorded step has one")
        for worst, group in worst_of_each_module(found):
            yield self._finding(trace, worst, group)

    def _finding(self, trace: Trace, lasting: Lasting, group: list[Lasting]) -> Finding:
        recurrence, late = lasting.recurrence, lasting.late
        decades, gain = middle(lasting.decades, late), middle(recurrence.gain_per_step, late)
        lag, starved = round(middle(recurrence.lag.astype(float), late)), self._starved(recurrence, late)
        length = lag + 1
        position = length - starved if recurrence.reverse else starved - 1
        first, last = (int(trace.steps[at]) for at in (lasting.persistence.first, lasting.persistence.last))
        closed = gain < self.usual_gain or gates(lasting)[0] < self.usual_gate
        needless = not closed and _fallen(trace, least=self.error_steps) <= self.learned
        made_by_training = lasting.persistence.first >= max(len(trace.steps) // 10, BEGINNING)
        needless |= made_by_training and _fallen(trace) <= self.moved
        grave = decades >= self.error_decades and last - first + 1 >= self.error_steps
        grave = grave and not _fallen(trace, since=BEGINNING) <= self.moved
        share = "nothing at all" if math.isinf(decades) else f"at most 10^−{decades:.1f} of it"
        where, half = f"positions 0 to {position}", "first"
        if recurrence.reverse:
            where, half = f"positions {position} to {lag}", "last"
        cut = " in a window of truncated backpropagation" if recurrence.cut[late].any() else ""
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.INFO if needless else Severity.ERROR if grave else Severity.WARNING,
            module=recurrence.module,
            sites=sites_of(trace, group),
            first_step=first,
            last_step=last,
            time=position,
            measured=decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The gradient through time of {recurrence.label} keeps {number(gain)} per time step:"
                f" {where} of {length}{cut} get less than {10**-self.min_decades:g} of the best-served one, the {half}"
                f" half {share}, in {steps(first, last)}{with_others(group)}."
            ),
            cause=_cause(lasting, lag) + (_NEEDLESS if needless else ""),
            remedy=_remedy(lasting, lag),
        )

    def _starved(self, recurrence: Recurrence, rows: Ints) -> int:
        """How many positions in a row, from where the layer begins, get less than 10^−min_decades."""
        starving = ~(relative(recurrence)[rows] >= -self.min_decades)
        return max(round(float(np.median(np.where(starving.all(axis=1), starving.shape[1], _leading(starving))))), 1)


_RANGE = 45.0  # decades from 1 down to the smallest float32: below, it is zero whatever was lost
_NEEDLESS = " The loss has fallen without it: the task hardly needs the early part, or not yet."


def _fallen(trace: Trace, *, since: int = 0, least: int = 0) -> float:
    """The loss of the last tenth over that of the first `since` records, or of the first tenth; NaN if not known.

    So it is in runs of fewer than `least` optimizer steps.
    """
    loss = trace.per_step["loss"]
    loss = loss[np.isfinite(loss)]
    if not len(loss) or trace.steps[-1] - trace.steps[0] + 1 < least:
        return float("nan")
    tenth = max(len(loss) // 10, 1)
    begun, ended = float(np.median(loss[: since or tenth])), float(np.median(loss[-tenth:]))
    return ended / begun if begun > 0 else float("nan")


def _unhealed(sick: Bools, known: Bools) -> Bools:
    """`sick` without what lies before the last tenth of the run, or as much in a row, that was well. Shape (step,)."""
    judged = np.flatnonzero(known)
    length = max(len(judged) // 10, BEGINNING)
    if len(judged) < length:
        return sick
    well = np.convolve(~sick[judged], np.ones(length), mode="valid")
    healed = well == length
    healed[-1] = well[-1] > length / 2  # at the end most of it will do
    ends = judged[np.flatnonzero(healed) + length - 1]
    return sick & (np.arange(len(sick)) > (ends[-1] if len(ends) else -1))


def relative(recurrence: Recurrence) -> Doubles:
    """log₁₀ of what arrives at each position over the best-served one, in the order in which the layer runs."""
    run = recurrence.as_run(recurrence.arriving)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.log10(run)
        best = np.max(np.where(np.isnan(levels), -np.inf, levels), axis=1, keepdims=True)
        return np.where(np.isfinite(best), levels - best, np.nan)


def missing_decades(recurrence: Recurrence) -> Doubles:
    """What the best-served position of the first half of the lag lacks; NaN where unknown. Shape (segment,)."""
    levels = relative(recurrence)
    early = np.arange(levels.shape[1]) < (recurrence.lag[:, None] + 1) // 2
    known = early & ~np.isnan(levels)
    best = np.max(np.where(known, levels, -np.inf), axis=1, initial=-np.inf)
    return np.where(known.any(axis=1), -best, np.nan)


def _steady(recurrence: Recurrence, missing: Doubles) -> Bools:
    """Whether the median gain, over the lag, makes up its share of what is missing."""
    gain = recurrence.travelled()
    known = ~np.isnan(gain)
    filled = np.where(known, gain, np.inf)
    filled.sort(axis=1)
    at = (known.sum(axis=1) - 1) // 2
    typical = np.where(known.any(axis=1), np.take_along_axis(filled, np.maximum(at, 0)[:, None], axis=1)[:, 0], 1.0)
    with np.errstate(divide="ignore"):
        lost = -np.log10(typical) * recurrence.lag
    return np.asarray((lost >= STEADY * np.minimum(missing, _RANGE)) | (typical == 0))


def _leading(flags: Bools) -> Ints:
    """How many of each row are true before the first that is not."""
    return np.asarray((~flags).argmax(axis=1))


def _cause(lasting: Lasting, lag: int) -> str:
    recurrence = lasting.recurrence
    forget, constant = gates(lasting)
    if not math.isnan(constant):
        which = "update" if recurrence.mode == "GRU" else "forget"
        if constant >= lag:
            return (
                f"Not the {which} gates: they average {number(forget)}, open enough for a lag of {lag}. The gradient is"
                " lost on its way into the cell or out of it, where gates or the tanh stand at their bounds."
            )
        return (
            f"The {which} gates average {number(forget)}, a time constant of {number(constant)} steps against a lag of"
            f" {lag}."
        )
    radius, norm = matrix(lasting)
    parts = []
    if not math.isnan(norm):
        limit = (
            " (below 1, which alone is sufficient for vanishing: Pascanu et al. 2013)"
            if norm < 1 and is_plain(recurrence)
            else ""
        )
        parts.append(
            f"the recurrent matrix has a spectral radius of {number(radius)} and a largest singular value of"
            f" {number(norm)}{limit}"
        )
    parts += [clause for clause in (slope_clause(lasting),) if clause]
    text = "; ".join(parts) or f"each call passes back less than it gets, over a lag of {lag}"
    return f"{text[0].upper()}{text[1:]}."


def _remedy(lasting: Lasting, lag: int) -> str:
    recurrence = lasting.recurrence
    weight = recurrent_weight(recurrence)
    pool = "or let the loss see more than the end: pool or attend over the outputs"
    if recurrence.mode in ("LSTM", "GRU"):
        if gates(lasting)[1] >= lag:
            return (
                f"Bring the gates and the state of {recurrence.label} off their bounds: smaller biases and input"
                " weights, or scaled inputs."
            )
        # e^(−1/lag) = σ(b)
        bias = -math.log(math.expm1(1 / max(lag, 1)))
        which, part = ("an update", "second third") if recurrence.mode == "GRU" else ("a forget", "second quarter")
        return (
            f"Start with open gates: {which} bias of {bias:.1f} (the {part} of {weight.replace('weight', 'bias')})"
            f" makes a time constant of {lag} steps; {pool}."
        )
    if is_saturated(lasting):
        return (
            f"Bring the states off the tanh's bounds: smaller input weights or scaled inputs, and {weight} orthogonal;"
            " or use an LSTM or GRU."
        )
    if recurrence.mode == "RNN_RELU":
        return f"Start {weight} as the identity, with zero biases (Le et al. 2015), or use an LSTM or GRU; {pool}."
    radius, _ = matrix(lasting)
    scale = f", or multiply it by {number(1 / radius)}" if radius < 1 else ""
    orthogonal = f"Draw {weight} orthogonal (nn.init.orthogonal_){scale}"
    return f"{orthogonal}; or use an LSTM or GRU, {pool}."

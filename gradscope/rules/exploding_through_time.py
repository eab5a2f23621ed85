"""GS202: the gradient grows on its way back along the sequence."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.recurrence import Recurrence
from gradscope.rules.base import Rule
from gradscope.rules.gain import BEGINNING
from gradscope.rules.learning import is_replaced, norms
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.through_time import (
    LEAST_LAG,
    STEADY,
    Bools,
    Lasting,
    by_step,
    has_recurrence,
    is_plain,
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

_CLIPPED = 0.5  # norm of the gradient as applied over what backward left


@dataclass(frozen=True)
class ExplodingThroughTime(Rule):
    """Each time step passes back a multiple of the gradient that it receives.

    What it means: the earliest steps rule the gradient of all recurrent weights, and its size jumps with every batch:
        steps that are far too large, or a clip that leaves nothing of the rest.
    How it is measured: the product of the gains per time step, from the last position back, at its largest; `measured`
        is its log₁₀. The gain is what is carried over one link against what arrived behind it, so a loss at every step
        adds nothing to it. The median gain must account for half of the growth. A factor on the loss cancels.
    Why the threshold: training makes gains of a little over 1, which add up to a factor of ten or less on 8 to 64 steps
        (RNN, LSTM and GRU), 25 at the most for an orthogonal RNN of 1.2. So two decades count if the run begins with
        them, and three if training has made them; three count as well where they last for the one step that replaces
        the layer's weights. It is an error from four decades on, and from there on it counts even if it heals. It began
        where it was 1.5 decades in the steps right before: more than those 25.
    What to try: an orthogonal recurrent matrix or one divided by its spectral radius; clipping by the norm, which keeps
        the direction; a lower learning rate.
    Where it stays silent: growth by a factor of ten over the whole sequence; lags under 10; a few odd steps.
    Source: Pascanu, Mikolov & Bengio 2013, sections 2 and 3.2.
    """

    code = "GS202"
    name = "exploding-through-time"
    reads = frozenset()  # of cells and layers the gradients of their states, of loops what their layers were given

    min_decades: float = 2.0
    learned_decades: float = 3.0
    error_decades: float = 4.0
    leading_decades: float = 1.5  # steps right before that are part of it

    def concerns(self, trace: Trace) -> bool:
        """Models with a recurrence."""
        return has_recurrence(trace)

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding for each recurrent module: its worst layer and direction."""
        found, seen = [], False
        for recurrence in judged_recurrences(trace):
            growth, steady = grown_decades(recurrence)
            known = ~np.isnan(growth) & (recurrence.lag >= LEAST_LAG)
            seen |= bool(known.any())
            begun, _ = by_step(trace, recurrence, known & steady & (growth >= self.min_decades), known)
            judged = np.unique(recurrence.step[known])
            bar = self.min_decades if begun[judged[:BEGINNING]].any() else self.learned_decades
            sick = known & steady & (growth >= bar)
            rows = np.flatnonzero(sick)
            lasting = persistence(*by_step(trace, recurrence, sick, known))
            if lasting is not None and not (lasting.standing or middle(growth, rows) >= self.error_decades):
                lasting = None
            if lasting is None and len(rows) and growth[rows[0]] >= self.learned_decades:
                lasting = _blown_away(trace, recurrence, rows)
            if lasting is not None:
                leading, _ = by_step(trace, recurrence, known & steady & (growth >= self.leading_decades), known)
                lasting = replace(lasting, first=_onset(leading, judged, lasting.first))
                found.append(Lasting(recurrence=recurrence, persistence=lasting, rows=rows, decades=growth))
        if not seen:
            raise NotJudged("needs a finite gradient at two positions in a row, no recorded step has one")
        for worst, group in worst_of_each_module(found):
            yield self._finding(trace, worst, group)

    def _finding(self, trace: Trace, lasting: Lasting, group: list[Lasting]) -> Finding:
        recurrence, rows = lasting.recurrence, lasting.rows
        decades, gain = middle(lasting.decades, rows), middle(recurrence.gain_per_step, rows)
        lag = round(middle(recurrence.lag.astype(float), rows))
        back = min(round(self.min_decades / (decades / lag)), lag)
        first, last = (int(trace.steps[at]) for at in (lasting.persistence.first, lasting.persistence.last))
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if decades >= self.error_decades else Severity.WARNING,
            module=recurrence.module,
            sites=sites_of(trace, group),
            first_step=first,
            last_step=last,
            time=back if recurrence.reverse else lag - back,
            measured=decades,
            threshold=self.min_decades,
            unit="decades",
            message=(
                f"The gradient through time of {recurrence.label} grows by {gain:.3g} per time step, by"
                f" {decades:.1f} decades over a lag of {lag}, in {steps(first, last)}{with_others(group)}."
            ),
            cause=_cause(lasting),
            remedy=_remedy(trace, lasting),
        )


def _onset(leading: Bools, judged: Ints, first: int) -> int:
    """Where it began to grow: the first of the judged steps in a row, up to `first`, that lead to it."""
    for step in judged[judged < first][::-1]:
        if not leading[step]:
            break
        first = int(step)
    return first


def _blown_away(trace: Trace, recurrence: Recurrence, rows: Ints) -> Persistence | None:
    """An explosion that did not last since the step that it made replaced the layer's weights; None if it was none."""
    at = np.unique(recurrence.step[rows])
    first, last = int(at[0]), int(at[-1])
    if not is_replaced(trace, recurrence.module, first):
        return None
    return Persistence(first=first, last=last, share=len(at) / len(trace.steps), standing=False, rows=at)


def grown_decades(recurrence: Recurrence) -> tuple[Doubles, Bools]:
    """log₁₀ of the largest product of gains from the last position back; whether the median gain makes up its share.

    Of a loop, a factor for what all positions together can add where the loss reads each of them is taken off.
    """
    gain = recurrence.travelled()
    with np.errstate(divide="ignore"):
        logs = np.log10(np.where(gain > 0, gain, np.nan))
    known = ~np.isnan(logs)
    total = np.cumsum(np.where(known, logs, 0.0), axis=1)
    back = np.arange(1, gain.shape[1] + 1)
    top = total.argmax(axis=1) if total.shape[1] else np.zeros(len(gain), dtype=np.intp)
    growth = np.take_along_axis(total, top[:, None], axis=1)[:, 0] if total.shape[1] else np.full(len(gain), np.nan)
    along = known & (back <= top[:, None] + 1)
    filled = np.where(along, logs, np.inf)
    filled.sort(axis=1)
    at = np.maximum(along.sum(axis=1) - 1, 0) // 2
    typical = np.take_along_axis(filled, at[:, None], axis=1)[:, 0] if total.shape[1] else growth
    steady = (along.sum(axis=1) >= LEAST_LAG) & (typical * (top + 1) >= STEADY * growth)
    if recurrence.carried is None:
        growth = growth - np.log10(recurrence.lag + 1.0)
    return np.where(known.any(axis=1), growth, np.nan), np.asarray(steady)


def _cause(lasting: Lasting) -> str:
    radius, norm = matrix(lasting)
    parts = []
    if not math.isnan(norm):
        whose = (
            "the recurrent matrix has" if is_plain(lasting.recurrence) else "of the gates' recurrent matrices, one has"
        )
        limit = (
            " (above 1, which is necessary for exploding: Pascanu et al. 2013)"
            if norm > 1 and is_plain(lasting.recurrence)
            else ""
        )
        parts.append(
            f"{whose} a spectral radius of {number(radius)} and a largest singular value of {number(norm)}{limit}"
        )
    parts += [clause for clause in (slope_clause(lasting),) if clause]
    text = "; ".join(parts) or "each call passes back more than it gets"
    return f"{text[0].upper()}{text[1:]}."


def _remedy(trace: Trace, lasting: Lasting) -> str:
    recurrence = lasting.recurrence
    radius, _ = matrix(lasting)
    weight = recurrent_weight(recurrence)
    parts = []
    if is_plain(recurrence) and radius > 1:
        parts.append(f"divide {weight} by {number(radius)}, or draw it orthogonal")
    else:
        parts.append(f"draw {weight} orthogonal, or smaller")
    parts.append(_clip(trace, lasting))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _clip(trace: Trace, lasting: Lasting) -> str:
    """Where to clip: at the usual norm of the steps that do not explode, if there are any."""
    columns = trace.columns(Quantity.TOTAL_NORM, "", "raw")
    if not columns:
        return "clip the gradient's norm"
    total = norms(trace, columns[0])
    applied = trace.columns(Quantity.TOTAL_NORM, "", "applied")
    if (
        applied
        and middle(norms(trace, applied[0]) / np.where(total > 0, total, np.nan), lasting.recurrence.step[lasting.rows])
        < _CLIPPED
    ):
        return "the clip that is in place keeps the run alive, the direction is still that of the first time steps"
    total[~((trace.statistics[Statistic.NONFINITE_COUNT][:, columns[0]] == 0) & (total > 0))] = np.nan
    sick = np.zeros(len(total), dtype=bool)
    sick[lasting.recurrence.step[lasting.rows]] = True
    usual, exploded = middle(total, np.flatnonzero(~sick)), middle(total, np.flatnonzero(sick))
    if math.isfinite(usual):
        return f"clip the gradient's norm at {number(usual)}, its median in the steps that do not explode"
    now = f" (its median is now {number(exploded)})" if math.isfinite(exploded) else ""
    return f"clip the gradient's norm, at 1 to begin with{now}"

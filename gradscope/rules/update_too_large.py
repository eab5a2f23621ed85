"""GS502: steps so large that the loss does not come down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.aftermath import Aftermath, aftermath
from gradscope.rules.base import Rule
from gradscope.rules.gain import Bools
from gradscope.rules.learning import Parameter, effective_update_ratios, optimizer_of, rates, trainable_parameters
from gradscope.rules.parameter_groups import Group, group_by_parameter, groups_of
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True)
class UpdateTooLarge(Rule):
    """Steps that are large beside the weights, and a loss that rises with them.

    What it means: training does not descend the loss, it jumps; ReLUs die and bounded activations saturate on the way.
    How it is measured: ‖Δw‖₂ of every weight over ‖w‖₂, or over the norm that a weight of its size is usually drawn
        with where that is larger; and the loss after the first such step against the loss before it.
    Why the threshold: at 2 a step replaces the weight twice over, at 0.5 half of it; 0.15 in a fifth of the steps, or
        on average over any ten, replaces it within ten. None of these is a fault by itself: of 468 runs (13 models, 5
        optimizers, rates from 1e-4 to 10) the first steps of RMSprop and Adagrad at their default rates reached 1.1,
        and learned. It is an error if the loss rises by half and ends where it was, or stays above for half of the run.
        It is a warning if it rises to three times and costs a tenth of the steps or half of the progress, if a step of
        five times the weight brings no progress, if a step is ten times the weight, or if the large steps are those of
        a group of parameters with a hundred times the rate of another. Else it is worth knowing. Of 160 of those runs
        with usual rates three are found, and these stayed near the loss of chance.
    What to try: a learning rate lower by the factor of the ratio to 1e-2; a warm-up; clipping by norm if single steps
        stand out.
    Where it stays silent: large steps that the loss follows down; weights that start at zero or much smaller than
        usual and have to grow; biases, scales of normalisation layers, single numbers.
    Source: the usual 1e-3 is a rule of thumb (Karpathy, CS231n notes); You et al. 2017 (LARS) judge the same ratio.
    """

    code = "GS502"
    name = "update-too-large"
    reads = frozenset({Quantity.WEIGHT_UPDATE})

    replaced: float = 2.0
    nearly_replaced: float = 0.5
    lasting_ratio: float = 0.15
    lasting_share: float = 0.2
    window: int = 10  # steps
    leading_ratio: float = 0.1  # steps right before that are part of it
    far: float = 5.0  # ratio from which on three times the loss is enough, or no progress
    overwritten: float = 10.0  # ratio from which on nothing of the weight is left, whatever the loss does
    alone: float = 100.0  # the rate of a group, against another's, at which replacing its weights is a mistake
    rise: float = 1.5
    high_rise: float = 3.0
    runaway: float = 100.0
    stuck: float = 0.9
    costly: float = 0.5  # of the loss before, at the end; and the share of the steps above it

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding, at the weight that moves the most."""
        ratios = {
            p: effective_update_ratios(trace, p)
            for p in trainable_parameters(trace)
            if p.is_weight and p.update is not None
        }
        ratios = {p: r for p, r in ratios.items() if np.isfinite(r).any()}
        if not ratios:
            raise NotJudged("needs the update of at least one weight in one step")
        table = np.stack(list(ratios.values()))
        largest = np.max(np.where(np.isfinite(table), table, 0.0), axis=0)
        known = np.asarray(np.isfinite(table).any(axis=0))
        worst: _Episode | None = None
        alone = self._alone(
            trace, {p: r for p, r in ratios.items() if np.nanmax(r, initial=0.0) >= self.nearly_replaced}
        )
        for bar, share in (
            (self.replaced, 0.0),
            (self.nearly_replaced, 0.0),
            (self.lasting_ratio, self.lasting_share),
        ):
            rows = np.flatnonzero(largest >= bar)
            if share and len(rows) < max(3.0, share * known.sum()):
                rows = self._replacing(largest, known)
            if not len(rows):
                continue
            first = self._onset(largest, int(rows[0]))
            after = aftermath(trace.per_step["loss"], first)
            episode = _Episode(bar, rows, first, after, self._severity(largest, bar, after, alone=alone))
            if worst is None or episode.severity.rank > worst.severity.rank:
                worst = episode
        if worst is not None and (worst.severity is not Severity.INFO or worst.bar >= self.nearly_replaced):
            yield self._finding(trace, worst, ratios)

    def _replacing(self, largest: Doubles, known: Bools) -> Ints:
        """The large steps of those ten in a row that add up to as much as `lasting_ratio` in each."""
        seen = np.flatnonzero(known)
        if len(seen) < 2 * self.window:
            return seen[:0]
        means = np.convolve(largest[seen], np.full(self.window, 1 / self.window), mode="valid")
        begins = np.flatnonzero(means >= self.lasting_ratio)
        rows = seen[np.unique(begins[:, None] + np.arange(self.window))]
        return rows[largest[rows] >= self.lasting_ratio]

    def _onset(self, largest: Doubles, row: int) -> int:
        """Where the steps began to grow: the first in a row of large ones that ends at `row`."""
        while row and largest[row - 1] >= self.leading_ratio:
            row -= 1
        return row

    def _alone(self, trace: Trace, far: Mapping[Parameter, Doubles]) -> bool:
        """Whether all weights that go too far are of groups with a far larger rate than another."""
        groups, least = group_by_parameter(trace), _least_rate(trace)
        return bool(far) and all((g := groups.get(p.full_name)) and g.lr >= self.alone * least for p in far)

    def _severity(self, largest: Doubles, bar: float, after: Aftermath | None, *, alone: bool) -> Severity:
        if after is None:  # nothing tells what became of it
            return Severity.WARNING if bar == self.replaced else Severity.INFO
        replaced = bar >= self.nearly_replaced
        if (after.peak >= self.rise and after.end >= self.stuck) or (replaced and after.above >= self.costly):
            return Severity.ERROR
        costly = largest.max() >= self.far or after.above >= 0.1 or after.end >= 0.2 or after.peak >= self.runaway
        if bar == self.replaced and after.peak >= self.high_rise and costly:
            return Severity.WARNING
        far, over = (bar == self.replaced and largest.max() >= ratio for ratio in (self.far, self.overwritten))
        without_use = after.end >= self.costly and (far or after.peak >= self.rise)
        return Severity.WARNING if over or (replaced and alone) or without_use else Severity.INFO

    def _finding(self, trace: Trace, episode: "_Episode", ratios: Mapping[Parameter, Doubles]) -> Finding:
        begins = int(episode.rows[0])
        worst = max(ratios, key=lambda p: np.nan_to_num(ratios[p][begins], posinf=0.0))
        where = worst.full_name
        seen = ratios[worst][np.isfinite(ratios[worst])]
        moved = [p for p, r in ratios.items() if (np.nan_to_num(r) >= episode.bar).any() and p.update is not None]
        group = group_by_parameter(trace).get(where)
        lr = float((trace.per_step["lr"] if group is None else rates(trace, group))[episode.first])
        at_rate = f" at a learning rate of {lr:g}" if np.isfinite(lr) else ""
        now = float(np.nan_to_num(ratios[worst][episode.first]))
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=episode.severity,
            module=worst.module,
            sites=tuple(trace.sites[p.update] for p in moved if p.update is not None),
            first_step=int(trace.steps[episode.first]),
            last_step=int(trace.steps[episode.rows[-1]]),
            measured=float(seen.max()),
            threshold=episode.bar,
            unit="‖Δw‖/‖w‖",
            message=(
                f"In {len(episode.rows)} of {len(trace.steps)} steps a weight moved by {episode.bar:g} times its norm"
                f" or more: {where} by up to {number(float(seen.max()))}; {len(moved)} of {len(ratios)} weights did so."
                f"{_consequence(episode.after)}"
            ),
            cause=(
                f"{optimizer_of(trace).name or 'The update rule'}{at_rate} moves {where} by"
                f" {number(now)} of its norm at step {trace.steps[episode.first]}"
                f"{_jump(trace, episode.first)}{_group(trace, group)}."
            ),
            remedy=(
                f"Lower the learning rate{' of ' + (worst.module or where) if _group(trace, group) else ''} from {lr:g}"
                f" to about {lr * 1e-2 / max(now, 1e-30):.0e}, where this step would be 1 % of the weight."
                if np.isfinite(lr)
                else f"Divide the step of {where} by {number(now / 1e-2)}, where it would be 1 % of the weight."
            ),
        )


@dataclass(frozen=True, slots=True)
class _Episode:
    """Steps at or above a bar."""

    bar: float
    rows: Ints
    first: int
    after: Aftermath | None
    severity: Severity


def _consequence(after: Aftermath | None) -> str:
    if after is None:
        return ""
    if np.isinf(after.peak):
        return f" The loss went from {number(after.before)} to no finite number."
    rose = f"rose from {number(after.before)} to {number(after.peak * after.before)}" if after.peak > 1 else "fell"
    return f" The loss {rose} and ended at {number(after.end * after.before)}."


def _jump(trace: Trace, row: int) -> str:
    """Whether a schedule had just raised the rate."""
    lr = trace.per_step["lr"]
    earlier = lr[:row][np.isfinite(lr[:row])]
    if not len(earlier) or not lr[row] > 3 * np.median(earlier):
        return ""
    return f", after {np.median(earlier):g} in the steps before"


def _group(trace: Trace, group: Group | None) -> str:
    """Whether its group steps much faster than another."""
    least = _least_rate(trace)
    if group is None or not group.lr >= 10 * least:
        return ""
    return f"; the rate of its group is {number(group.lr / least)} times that of another"


def _least_rate(trace: Trace) -> float:
    return min((g.lr for g in groups_of(trace) if g.lr > 0), default=float("nan"))

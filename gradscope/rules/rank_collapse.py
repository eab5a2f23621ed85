"""GS307: tokens, nodes or samples come to look the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.flow import Flow, flow_of
from gradscope.links import adds_up_rows
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.directions import Direction, directions_of
from gradscope.rules.gain import Bools
from gradscope.rules.layers import LOOKUPS
from gradscope.rules.persistence import Persistence, standing
from gradscope.rules.stuck import place_of
from gradscope.rules.wording import count, number
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class RankCollapse(Rule):
    """The representations of different tokens, nodes or samples become one and the same direction.

    What it means: the layers behind see one vector, whatever they are asked about, and can tell nothing apart.
    How it is measured: direction_spread, one less the mean cosine between rows: the tokens of a sequence, else the
        nodes or samples of a batch. It has collapsed where it is tiny, was not before, and stays so up to the end of
        what mixes the rows, or of the model.
    Why the threshold: 1e-6 is a difference of a thousandth between the rows, the three decades of GS304. In a net that
        mixes its rows, 1e-3 counts if the loss does not fall: a ReLU net at its He initialisation comes to
        9π²/(2L²), which is 1e-3 at a depth of 200, and does not mix. Most of the records are enough then, with the
        first and the last: a batch may have a node without neighbours, which stays as it is. One layer divides it by
        ten thousand only if what it adds, a bias, buries what it was given.
    What to try: a skip connection around what mixes; fewer rounds of it; for a siamese net negatives, a stopped
        gradient or a normalisation over the batch.
    How grave it is: an error from 1e-6 on; else a warning.
    Where it stays silent: branches that a skip leads around; what a later layer tells apart again; outputs of less
        than four features; nets that fade layer by layer without mixing (GS101, GS304); classes that a trained
        classifier draws together.
    Source: Dong et al. 2021, Attention is not all you need; Li et al. 2018 and Oono & Suzuki 2020 for graphs; Chen &
        He 2021 for siamese nets; Daniely et al. 2016 for the cosine in ReLU nets.
    """

    code = "GS307"
    name = "rank-collapse"
    reads = frozenset({Quantity.OUTPUT})

    max_spread: float = 1e-6
    max_mixed: float = 1e-3
    max_trained: float = 0.02
    min_before: float = 0.05
    min_fall: float = 1e4
    min_trained_fall: float = 30.0
    min_features: float = 4.0
    min_records: int = 2

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: the first place."""
        flow = flow_of(trace)
        known = [
            d
            for d in directions_of(trace)
            if not d.features < self.min_features and (~np.isnan(d.spread)).sum() >= self.min_records
        ]
        if not known:
            raise NotJudged(f"needs outputs of two rows or more in {self.min_records} records that measure them")
        found = (
            self._equal_table(trace, known)
            or self._mixed(trace, flow, known)
            or self._buried(flow, known)
            or self._trained(trace, flow, known)
        )
        if found is not None:
            yield self._finding(trace, *found)

    def _equal_table(self, trace: Trace, known: list[Direction]) -> "_Found | None":
        """A look-up table whose rows were the same and have not come apart."""
        for one in known:
            weights = trace.columns(Quantity.WEIGHT, one.site.module, "weight")
            if one.site.module_type not in LOOKUPS or not weights:
                continue
            equal = trace.statistics[Statistic.SYMMETRIC_FRACTION][:, weights[0]]
            equal = equal[~np.isnan(equal)]
            lasting = standing(one.spread <= self.max_spread, ~np.isnan(one.spread))
            same = bool(len(equal)) and equal[0] >= 0.9
            same |= bool((trace.statistics[Statistic.STD][:, weights[0]] == 0).any())
            if lasting is not None and same:
                cause = f"The rows of {one.site.module}.weight were the same at the start"
                return one, lasting, None, f"{cause}.", f"Draw the rows of {one.site.module}.weight at random."
        return None

    def _mixed(self, trace: Trace, flow: Flow | None, known: list[Direction]) -> "_Found | None":
        """Rows that are mixed with each other until they are the same."""
        mixing = [d for d in known if d.attends or _mixes(flow, d.site.module)]
        if not mixing:
            return None
        stalled = _stalls(trace)
        end = mixing[-1].site.depth
        for limit in (self.max_spread, self.max_mixed)[: 2 if stalled else 1]:
            for one in known:
                within = mixing[0].site.depth <= one.site.depth <= end
                if not within or _lasts(one.spread <= limit, one, stalled) is None:
                    continue
                before = _before(flow, known, one)
                if before is None:
                    continue
                later = [d for d in known if one.site.depth <= d.site.depth <= end]
                lasting = _lasts(_all_below(later, 10 * limit) & (one.spread <= limit), one, stalled)
                if lasting is not None and _typical(before.spread, lasting) >= self.min_before:
                    return (one, lasting, before, *_about_mixing(one, mixing))
        return None

    def _buried(self, flow: Flow | None, known: list[Direction]) -> "_Found | None":
        """One layer that adds so much of the same that the rest no longer counts."""
        for one in known:
            before = _before(flow, known, one, nearest=True)
            if before is None or one.site.module_type in LOOKUPS:
                continue
            sick = (one.spread <= self.max_spread) & (before.spread >= self.min_fall * one.spread)
            sick &= before.spread >= self.min_before / 5
            if not sick.any():
                continue  # to compare each layer with all that follow is slow where there are hundreds
            later = [d for d in known if d.site.depth > one.site.depth]
            if not later:
                continue
            sick &= _all_below(later, 10 * self.max_spread)
            lasting = standing(sick, ~np.isnan(one.spread))
            if lasting is not None:
                name = one.site.module
                # of rows b + r, with r small, one less the mean cosine is ‖r‖²/‖b‖²
                factor = number(float(np.median(one.spread[lasting.rows]) + 1e-30) ** -0.5)
                cause = f"What {name} adds to every row, its bias or shift, is {factor} times what tells the rows apart"
                remedy = f"Start the bias of {name} at zero, or subtract the mean over the batch behind it (BatchNorm)."
                return one, lasting, before, f"{cause}.", remedy
        return None

    def _trained(self, trace: Trace, flow: Flow | None, known: list[Direction]) -> "_Found | None":
        """A module that is run on several inputs in each step, to be compared, and has learned to answer all alike."""
        wide = [d for d in known if not np.isnan(d.features) and d.features >= 2 * self.min_features]
        last = directions_of(trace)[-1]
        if flow is None or len(flow.given(last.site.module)) < 2 or last.site not in {d.site for d in wide}:
            return None
        for place, one in enumerate(wide):
            before = _before(flow, known, one)
            first = one.spread[~np.isnan(one.spread)][0]
            sick = _all_below(wide[place:], 5 * self.max_trained) & (one.spread <= self.max_trained)
            sick &= one.spread * self.min_trained_fall <= first
            lasting = standing(sick & (first >= self.min_before), ~np.isnan(one.spread))
            if lasting is not None and before is not None:
                return one, lasting, before, _COMPARED.format(one.site.module), _KEEP_APART
        return None

    def _finding(
        self, trace: Trace, one: Direction, lasting: Persistence, before: Direction | None, cause: str, remedy: str
    ) -> Finding:
        spread = float(np.median(one.spread[lasting.rows]))
        first, last = int(trace.steps[lasting.first]), int(trace.steps[lasting.last])
        was = "" if before is None else f", that of {before.site.module} {number(_typical(before.spread, lasting))}"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if spread <= self.max_spread else Severity.WARNING,
            module=place_of(trace, one.site),
            sites=(one.site,),
            first_step=first,
            last_step=last,
            measured=spread,
            threshold=next((t for t in (self.max_spread, self.max_mixed) if spread <= t), self.max_trained),
            unit="1 − mean cosine",
            message=(
                f"All rows that {one.site.module} returns point in one direction since step {first}: one less their"
                f" mean cosine is {number(spread)}{was}."
            ),
            cause=cause,
            remedy=remedy,
        )


_COMPARED = "{} runs on several inputs in each step, and the loss is lowest where it answers all of them alike."
_KEEP_APART = (
    "Add what keeps the answers apart: negatives (InfoNCE), or a stopped gradient on one side with a predictor on the"
    " other and BatchNorm in both."
)
_Found = tuple[Direction, Persistence, Direction | None, str, str]


def _lasts(sick: Bools, one: Direction, stalled: bool) -> Persistence | None:
    """Whether it is so to the end; where the loss does not fall, in most records, with the first and the last.

    A node without neighbours keeps what it was, and is in some batches only.
    """
    known = ~np.isnan(one.spread)
    lasting = standing(sick, known)
    judged, rows = np.flatnonzero(known), np.flatnonzero(sick & known)
    often = len(rows) > max(len(judged) / 2, 2) and sick[judged[0]] and sick[judged[-1]]
    if lasting is not None or not stalled or not often:
        return lasting
    share = len(rows) / len(judged)
    return Persistence(first=int(rows[0]), last=int(rows[-1]), share=share, standing=True, rows=rows)


def _typical(spread: Doubles, lasting: Persistence) -> float:
    return float(np.nanmedian(spread[lasting.rows]))


def _all_below(later: list[Direction], limit: float) -> Bools:
    """In which steps all of them are, of those that were measured."""
    return np.asarray(np.all([np.isnan(d.spread) | (d.spread <= limit) for d in later], axis=0))


def _before(flow: Flow | None, known: list[Direction], one: Direction, *, nearest: bool = False) -> Direction | None:
    """What leads to it and differs most; with `nearest`, of what feeds it."""
    if nearest and flow is not None and flow.given(one.site.module):
        feeders = set(flow.feeds(one.site.module))
        known = [d for d in known if d.site.module in feeders]
    earlier = [d for d in known if d.site.depth < one.site.depth]
    if flow is not None and flow.given(one.site.module):
        earlier = [d for d in earlier if nearest or flow.is_before(d.site.module, one.site.module)]
    elif nearest:
        earlier = earlier[-1:]
    return max(earlier, key=lambda d: float(np.nanmax(d.spread)), default=None)


def _mixes(flow: Flow | None, module: str) -> bool:
    """Whether rows are added up on the way to `module`: a product with a matrix on their left, or a gathering."""
    if flow is None:
        return False
    given = flow.given(module)
    ways = [(leading, one) for one in given for leading in flow.before.get(one, ())]
    ways += zip(given, flow.returned(module), strict=True)  # what the module does itself
    return any(adds_up_rows(name) for way in ways for name in flow.through.get(way, ()))


def _about_mixing(one: Direction, mixing: list[Direction]) -> tuple[str, str]:
    """Cause and remedy where rows are mixed."""
    rounds = len([d for d in mixing if d.site.depth <= one.site.depth])
    if any(d.attends for d in mixing):
        return (
            f"Attention makes each row a mean of all rows; after {rounds} such means in a row, with no path around"
            " them, nothing of what each row was is left.",
            f"Add to what {one.site.module} returns what it was given (a skip connection), in each layer.",
        )
    return (
        f"Each layer makes each row a mean of its neighbours; after {rounds} such means nothing of its own is left.",
        f"Use {count(max(rounds // 2, 1), 'layer')} or fewer, or add to each layer's output what it was given.",
    )


def _stalls(trace: Trace) -> bool:
    """Whether the loss was recorded and has fallen by less than an eighth."""
    loss = trace.per_step["loss"]
    loss = loss[np.isfinite(loss)]
    quarter = len(loss) // 4
    return quarter > 0 and bool(np.mean(loss[-quarter:]) > 7 / 8 * np.mean(loss[:quarter]))

"""GS303: a module that returns the same whatever it is given."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.flow import Flow, flow_of
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.gate_slopes import softmax_slopes
from gradscope.rules.layers import learned_layers
from gradscope.rules.learning import norms
from gradscope.rules.persistence import Persistence, standing
from gradscope.rules.spreads import Walls
from gradscope.rules.stuck import place_of
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class ConstantOutput(Rule):
    """What a module returns is the same for every sample, though what it is given is not.

    What it means: behind it nothing depends on the input any more, and before it no gradient says what the input should
        have become: both parts learn at most a constant.
    How it is measured: sample_spread, how far the outputs of a batch lie from their mean over how large they are; of
        the module, and of the modules that feed it. A wall is where it falls from over a thousandth to a hundred
        thousandth or less in one module.
    Why the threshold: float32 gives equal samples a spread of at most 1e-6 by rounding. No sound layer divides the
        spread by a thousand: a Linear of torch's default weights with its Sigmoid divides it by seven. Where it fades
        layer by layer, GS304 judges. A normalisation makes a spread of its own scale of whatever it is given; a
        thousandth of that is rounding, multiplied by 1/√eps.
    What to try: what makes it constant: a scale of zero, a mask of zeros, a normalisation or softmax over one element,
        dropout of everything, a mean over the batch.
    How grave it is: an error where the layers before it get no gradient, or every layer after it is constant too; a
        warning where a path leads around it, so that only its own branch is lost. Else it costs nothing and is not
        said.
    Where it stays silent: heads, adapters and residual branches that begin at zero and leave it; what is computed from
        parameters, positions or a batch of equal samples; units that have died or are saturated (GS301, GS302).
    Source: follows from the definition; for layers that fade, Schoenholz et al. 2017.
    """

    code = "GS303"
    name = "constant-output"
    reads = frozenset({Quantity.OUTPUT})

    max_spread: float = 1e-5
    min_fall: float = 1e3
    min_records: int = 2
    max_normed: float = 1e-3
    max_passed: float = 1e-4
    stuck_slope: float = 0.03  # of a softmax that GS302 judges

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for all walls."""
        walls = Walls(trace)
        known = [w for w in walls.found if (~np.isnan(w.own)).sum() >= self.min_records]
        if not known:
            raise NotJudged(f"needs the outputs of two samples or more in {self.min_records} records that measure them")
        flow = flow_of(trace)
        stuck = {column: slope < self.stuck_slope for column, slope in softmax_slopes(trace).items()}
        found: list[tuple[Site, Persistence, bool]] = []
        for wall in known:
            floor = np.maximum(wall.own, self.max_spread / 10)
            sick = (wall.own <= self.max_spread) & (wall.given >= floor * self.min_fall)
            if "Norm" in wall.site.module_type:
                left = wall.own * _over_scale(trace, wall.site)
                sick |= (left <= self.max_normed) & (wall.given >= 100 * np.maximum(left, self.max_normed / 10))
            lasting = standing(sick, ~np.isnan(wall.own))
            columns = (trace.sites.index(wall.site), *wall.feeders)
            chosen = [stuck[c][lasting.rows] for c in columns if c in stuck] if lasting is not None else []
            if lasting is None or _is_stuck(trace, columns, lasting.rows) or any(bool(c.all()) for c in chosen):
                continue
            starved = self._starves(trace, wall.feeders, wall.site, lasting)
            rest = self._rest_is_constant(trace, walls, flow, wall.site, lasting)
            if starved or rest:
                aside = flow is not None and wall.site.module not in flow.backbone
                found.append((wall.site, lasting, aside))
        if found:
            yield self._finding(trace, walls, found)

    def _starves(self, trace: Trace, feeders: tuple[int, ...], site: Site, lasting: Persistence) -> bool:
        """Whether what feeds it gets a gradient of nothing, compared with what it gets itself."""
        own = [norms(trace, c) for c in trace.columns(Quantity.OUTPUT_GRAD, site.module, site.name)]
        learned = {layer.module for layer in learned_layers(trace) if layer.depth < site.depth}
        before = [
            norms(trace, c)
            for feeder in feeders
            for c in trace.columns(Quantity.OUTPUT_GRAD, trace.sites[feeder].module, trace.sites[feeder].name)
        ]
        if not learned or not before:
            return False
        since = slice(lasting.first, None)
        passed = np.nanmax(np.stack([np.nan_to_num(b, nan=0.0) for b in before]), axis=0)[since]
        got = own[0][since] if own else np.full(len(passed), np.nan)
        nothing = (passed == 0) | (passed <= self.max_passed * np.nan_to_num(got, nan=0.0))
        return bool(nothing.mean() >= 0.9)

    def _rest_is_constant(
        self, trace: Trace, walls: Walls, flow: Flow | None, site: Site, lasting: Persistence
    ) -> bool:
        """Whether the model's output passes through here, and no layer after it depends on the sample."""
        if flow is not None and site.module not in flow.backbone:
            return False
        learned = {layer.module for layer in learned_layers(trace)}
        after = [w for w in walls.found if w.site.depth > site.depth and w.site.module in learned]
        if not after and (flow is None or not learned or site.depth < max(w.site.depth for w in walls.found)):
            return False
        return all(bool((w.own[lasting.rows] <= self.max_spread).all()) for w in after)

    def _finding(self, trace: Trace, walls: Walls, found: list[tuple[Site, Persistence, bool]]) -> Finding:
        site, lasting, _ = found[0]
        wall = next(w for w in walls.found if w.site == site)
        at = lasting.rows[-1]
        own, before = (number(float(spread[at])) for spread in (wall.own, wall.given))
        where, first, last = place_of(trace, site), int(trace.steps[lasting.first]), int(trace.steps[at])
        others = len(found) - 1
        more = f"; so are {others} other modules" if others > 1 else "; so is one other module" if others else ""
        given = trace.sites[wall.feeders[0]].module if wall.feeders else "the input"
        cause, remedy = _why(trace, site, given, int(lasting.rows[0]))
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.WARNING if all(aside for _, _, aside in found) else Severity.ERROR,
            module=where,
            sites=tuple(s for s, _, _ in found),
            alike=tuple(dict.fromkeys(place_of(trace, s) for s, _, _ in found)),
            first_step=first,
            last_step=last,
            measured=float(wall.own[at]),
            threshold=self.max_spread,
            unit="spread over samples",
            message=(
                f"What {site.module} returns does not depend on the sample since step {first}: over the batch it"
                f" spreads by {own} of its size, {given} by {before}{more}."
            ),
            cause=cause,
            remedy=remedy,
        )


def _over_scale(trace: Trace, site: Site) -> Doubles:
    """rms(y) of a normalisation over that of its scale; 0 where the scale is zero."""
    rms = trace.statistics[Statistic.RMS]
    column = next(c for c in trace.columns(site.quantity, site.module, site.name) if trace.sites[c] == site)
    own = rms[:, column].astype(np.float64)
    weights = trace.columns(Quantity.WEIGHT, site.module, "weight")
    if not weights:
        return own
    scale = rms[:, weights[0]].astype(np.float64)
    return np.asarray(own / np.where(scale > 0, scale, np.inf))


def _is_stuck(trace: Trace, columns: tuple[int, ...], rows: NDArray[np.int64]) -> bool:
    """Whether the units of one of them have died or are saturated, which other rules say."""
    shares = [
        trace.statistics[stat][rows, column]
        for column in columns
        for stat in (Statistic.DEAD_FRACTION, Statistic.SATURATED_FRACTION)
    ]
    return any(bool((~np.isnan(share)).any()) and float(np.nanmedian(share)) >= 0.95 for share in shares)


def _why(trace: Trace, site: Site, given: str, row: int) -> tuple[str, str]:
    """Cause and remedy, from the kind of module and its weight."""
    name, kind = site.module, site.module_type
    weights = trace.columns(Quantity.WEIGHT, name, "weight")
    rms = float(trace.statistics[Statistic.RMS][row, weights[0]]) if weights else np.nan
    size = float(trace.statistics[Statistic.NUMEL][row, weights[0]]) if weights else np.nan
    zeros = float(trace.statistics[Statistic.ZERO_FRACTION][row, trace.sites.index(site)]) == 1
    if "Norm" in kind and rms == 0:
        return f"The scale of {name} is zero, so only its bias is left.", f"Start {name}.weight at 1 and let it train."
    if "Norm" in kind:
        over = "a single feature" if size == 1 else "single values"
        return (
            f"{name} is a {kind} over {over}: a value less its own mean is zero, so only its bias is left.",
            f"Take {name} out, or let it normalise over more values: all features of a layer, or fewer groups.",
        )
    if "Softmax" in kind:
        return (
            f"{name} is a softmax over a single element, which is 1 whatever that element is.",
            "Use a sigmoid for one score, or take softmax along the axis of the classes.",
        )
    if "Dropout" in kind:
        return f"{name} drops every element.", f"Set the probability of {name} to 0.5 or less."
    if rms == 0:
        return (
            f"The weight of {name} is zero and stays so.",
            f"Draw the weight of {name} at random, and see that the optimizer holds it.",
        )
    what = "zeros" if zeros else "the same values"
    return (
        f"What lies between {given} and {name}, or {name} itself, makes {what} of whatever comes: a mask of zeros, a"
        " factor of zero, a clamp, a mean over the batch.",
        f"Print what {name} is given for two different samples, and take out what makes them equal.",
    )

"""The gradient's way back through a model: the places at which its whole norm is known, and what lies between two.

From the last module to the first, along the tensors that everything goes through. Where paths part and join again, the
way leads from the join to the place where they part, and the branches lie beside it. Branches that begin apart, or end
apart, have no such place: the way goes on along the one whose gradient changes most.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradscope.flow import Flow, Vertex, flow_of
from gradscope.links import MOST_CALLS, OUTPUT, Side
from gradscope.records import Quantity, Statistic
from gradscope.trace import Doubles, Ints, Trace

_SAME = 1e-6  # relative difference of the norms of one tensor that stands twice among what a module is given
_MOST_LEVELS = 8  # of branches within branches
_MOST_ENDS = 32  # of which the way is looked for, such as heads


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leg:
    """A piece of the way.

    Attributes:
        early: Where it ends, on the side of the input.
        late: Where it begins, on the side of the loss.
        decades: log₁₀ of the gradient's norm at `early` over that at `late`. Shape (step,); NaN where either is not
            observed, not finite or zero.
        functions: Those between, where no module is; and those of the path around the branches, where there is one.
        skipped: Whether a path without a module leads around the branches.
        whole: Whether nothing else takes part in the gradient at `early`.
        branches: What lies between: the legs of each branch, from its end back to its beginning.
        modules: Of each branch, the modules in it.
    """

    early: Vertex
    late: Vertex
    decades: Doubles
    functions: tuple[str, ...] = ()
    skipped: bool = False
    whole: bool = True
    branches: tuple[tuple["Leg", ...], ...] = ()
    modules: tuple[tuple[str, ...], ...] = ()

    @property
    def is_module(self) -> bool:
        """Whether it leads through one module and nothing else."""
        return (
            self.early.module == self.late.module
            and self.early.call == self.late.call
            and self.early.side is Side.GIVEN
            and self.late.side is Side.RETURNED
        )


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """The whole way.

    Attributes:
        legs: From the loss on.
        others: Where several branches begin or end apart, the legs of each other way, the shared ones with them.
    """

    legs: tuple[Leg, ...] = ()
    others: tuple[tuple[Leg, ...], ...] = ()


def way_back(trace: Trace) -> Way:
    """The legs from the last module to the first; none where it is not known who feeds whom."""
    flow = flow_of(trace)
    if flow is None:
        return Way()
    norms = _Norms(trace)
    foot = next((v for v in flow.spine if v.module != OUTPUT and norms.at(v) is not None), None)
    if foot is not None:
        shared = _known_together(_legs(flow, norms, flow.spine, _MOST_LEVELS))
        branches = _branches(flow, norms, foot, shared)
        if branches or shared:
            return _steepest(branches) if branches else Way(shared)
    # nothing that everything goes through, as with several heads or experts
    found = (_known_together(_legs(flow, norms, flow.spine_to(end), _MOST_LEVELS)) for end in flow.ends[:_MOST_ENDS])
    return _steepest([legs for legs in found if legs])


def _branches(flow: Flow, norms: "_Norms", foot: Vertex, shared: tuple[Leg, ...]) -> list[tuple[Leg, ...]]:
    """The ways on from `foot`, where branches meet that begin apart; a lone layer counts only beside a lone layer."""
    if shared and shared[-1].early != foot:
        return []  # the gradient ends before
    found = []
    for entry in flow.entries_before(foot):
        legs = _known_together([*shared, *_legs(flow, norms, flow.spine_from(entry, foot), _MOST_LEVELS)])
        if len(legs) > len(shared):
            found.append(legs)
    lone = len({leg.late.module for leg in shared}) <= 1
    long = any(len({leg.early.module for leg in legs[len(shared) :]} - {foot.module}) > 1 for legs in found)
    return found if lone or long else []


def _steepest(ways: Sequence[tuple[Leg, ...]]) -> Way:
    """The one that loses or gains the most, beside the others."""
    if not ways:
        return Way()
    changes = [abs(float(np.nanmedian(np.sum([leg.decades for leg in legs], axis=0)))) for legs in ways]
    most = changes.index(max(changes))
    return Way(ways[most], tuple(legs for place, legs in enumerate(ways) if place != most))


def _known_together(legs: Iterable[Leg]) -> tuple[Leg, ...]:
    """The legs, from the loss on, that are known in one step: where the gradient is exactly zero the way ends."""
    found = tuple(legs)
    while found and np.isnan(np.sum([leg.decades for leg in found], axis=0)).all():
        found = found[:-1]
    return found


class _Norms:
    """log₁₀ of the gradient's norm at the vertices of the graph."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._columns: dict[tuple[str, Side], list[int]] = {}
        for quantity, side in ((Quantity.INPUT_GRAD, Side.GIVEN), (Quantity.OUTPUT_GRAD, Side.RETURNED)):
            for column in trace.columns(quantity):
                self._columns.setdefault((trace.sites[column].module, side), []).append(column)
        recurrent = trace.meta.get("recurrent")
        types = {site.module: site.module_type for site in trace.sites}
        # of a fused layer the rows are positions; a cell in a loop has one for each call, as any other module
        fused = {m for m in (recurrent if isinstance(recurrent, dict) else {}) if not types.get(m, "").endswith("Cell")}
        timed = trace.times
        self._rows: dict[int, Ints] = {}
        order = np.argsort(timed.site, kind="stable")
        sites, starts = np.unique(timed.site[order], return_index=True)
        for site, rows in zip(sites.tolist(), np.split(order, starts[1:]), strict=bool(len(sites))):
            if trace.sites[site].module not in fused:
                self._rows[site] = rows
        self._known: dict[Vertex, Doubles | None] = {}

    def at(self, vertex: Vertex) -> Doubles | None:
        """Shape (step,); None where it is never known."""
        if vertex not in self._known:
            columns = self._columns.get((vertex.module, vertex.side), [])
            self._known[vertex] = self._of([self._norm(column, vertex.call) for column in columns])
        return self._known[vertex]

    def _of(self, norms: Sequence[Doubles]) -> Doubles | None:
        """Of several tensors at once; the same one counts once."""
        apart: list[Doubles] = []
        for norm in norms:
            if not any(np.allclose(norm, other, rtol=_SAME, atol=0, equal_nan=True) for other in apart):
                apart.append(norm)
        seen = [norm for norm in apart if not np.isnan(norm).all()]
        if not seen:
            return None
        known = ~np.isnan(np.stack(seen)).all(axis=0)
        whole = np.where(known, np.sqrt(np.nansum(np.stack(seen) ** 2, axis=0)), np.nan)
        found = np.log10(np.where(whole > 0, whole, np.nan))
        return found if np.isfinite(found).any() else None

    def _norm(self, column: int, call: int) -> Doubles:
        """In one call of a step; where there was but one, or the rows are positions, over all."""
        trace = self._trace
        norm = trace.statistics[Statistic.L2_NORM][:, column].astype(np.float64)
        broken = trace.statistics[Statistic.NONFINITE_COUNT][:, column] > 0
        rows = self._rows.get(column)
        if rows is not None:
            timed = trace.times
            norm[timed.step[rows]] = np.nan
            calls = timed.time[rows]
            last = int(calls.max())
            rows = rows[calls == (last if call == MOST_CALLS - 1 else min(call, last))]
            norm[timed.step[rows]] = timed.statistics[Statistic.L2_NORM][rows]
        return np.where(broken | ~np.isfinite(norm), np.nan, norm)


def _legs(flow: Flow, norms: _Norms, spine: Sequence[Vertex], levels: int) -> Iterator[Leg]:
    known = [(vertex, at) for vertex in spine if vertex.module != OUTPUT and (at := norms.at(vertex)) is not None]
    for (late, late_norm), (early, early_norm) in pairwise(reversed(known)):
        parts = [part for part in flow.parts_between(early, late) if any(v.is_module for v in part)]
        direct = late in flow.after.get(early, ())
        inner = Leg(early=early, late=late, decades=early_norm - late_norm).is_module
        if inner:
            parts = []
        branches = tuple(tuple(_legs(flow, norms, flow.narrows(part), levels - 1)) for part in parts if levels)
        yield Leg(
            early=early,
            late=late,
            decades=early_norm - late_norm,
            functions=flow.through.get((early, late), ()),
            skipped=bool(parts) and direct,
            whole=not inner or _alone(flow, early),
            branches=branches,
            modules=tuple(_modules(flow, part) for part in parts),
        )


def _modules(flow: Flow, part: set[Vertex]) -> tuple[str, ...]:
    """In the order in which they first ran."""
    inside = {v.module for v in part if v.side is Side.RETURNED}
    return tuple(module for module in flow.modules if module in inside)


def _alone(flow: Flow, given: Vertex) -> bool:
    """Whether the tensor that a module is given goes nowhere else."""
    at = given
    while True:
        if len(flow.after.get(at, ())) > 1:
            return False
        leading = flow.before.get(at, ())
        if at.side is not Side.GIVEN or len(leading) != 1 or not leading[0].is_module:
            return True
        if flow.through.get((leading[0], at)):
            return True  # made from it, not the very tensor
        at = leading[0]

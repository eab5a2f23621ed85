"""Where the decades of a gradient go on its way from the last module back to the first.

Each module's gain is ‖∂L/∂x‖₂ / ‖∂L/∂y‖₂, x what it is given and y what it returns. In log₁₀ the gains along the way
add up to the end-to-end ratio, for every step exactly; what is told of a run is their mean over the middle half of its
steps, ordered by the end-to-end ratio, so one bad step does not count and the terms still add up.

What is exact: the terms along the way, as long as no branch lies on them. Where paths part and join, the norm at both
places is exact, and so is what a path around without a module hands back: by a sum, the whole gradient of the join. A
norm does not tell how much of the gradient before a branch came through the branch. The modules within it are shown
beside, and belong to no sum; of its first module only what is at its output is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gradscope.findings import Json
from gradscope.flow import flow_of
from gradscope.kinds import Kind
from gradscope.once import once
from gradscope.records import Quantity, Statistic
from gradscope.terms import Term, Terms
from gradscope.trace import Doubles, Ints, Trace
from gradscope.way_back import Leg, way_back

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_LEAST_SHARE = 0.05  # of the largest group, in a sentence
_LEAST_DECADES = 0.05
_MOST_GROUPS = 4
_MOST_OTHERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All terms of one class.

    Attributes:
        kind: What they are.
        module_type: Their class.
        modules: Which they are.
        decades: Their sum.
        bound: As of each.
    """

    kind: Kind
    module_type: str
    modules: tuple[str, ...]
    decades: float
    bound: float | None

    @property
    def each(self) -> float:
        """Geometric mean of their gains."""
        return float(10 ** (self.decades / len(self.modules)))

    def __str__(self) -> str:
        count = len(self.modules)
        if self.kind in (Kind.SKIP, Kind.BRANCHES):
            return f"{signed(self.decades)} where paths join ({f'{count} times' if count > 1 else 'once'})"
        if self.kind is Kind.OTHER and self.module_type[:1].islower():
            return f"{signed(self.decades)} in functions between modules ({self.module_type})"
        what = f"{count} {self.module_type}s" if count > 1 else f"the {self.module_type} `{self.modules[0]}`"
        bound = f", bound {self.bound:.3g}" if self.bound is not None else ""
        return f"{signed(self.decades)} in {what} ({self.each:.3g}{' each' if count > 1 else ''}{bound})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWay:
    """One that begins or ends elsewhere: of branches that have no place in common.

    Attributes:
        late: Where it begins: the name of a module.
        early: Where it ends.
        decades: What is gained or lost along it, over the same steps.
    """

    late: str
    early: str
    decades: float

    def __str__(self) -> str:
        return f"{signed(self.decades)} between `{self.late}` and `{self.early}`"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Budget:
    """The terms of a way back, the last module's first; they add up to `decades`.

    Printing it with rich shows it as `gradscope report --view budget`.

    Attributes:
        late: Where it begins: the name of a module.
        early: Where it ends.
        terms: In the order in which the gradient comes through.
        rows: The steps that count, as indices of the trace's.
        steps: Their numbers.
        recorded: How many steps it is known in.
        beside: Recurrent modules at which the way ends, for what happens in their time steps; part of no sum.
        others: Ways along the other branches, where it goes along one of several that have no place in common.
    """

    late: str
    early: str
    terms: tuple[Term, ...]
    rows: tuple[int, ...]
    steps: tuple[int, ...] = ()
    recorded: int = 0
    beside: tuple[Term, ...] = ()
    others: tuple[OtherWay, ...] = ()

    @cached_property
    def decades(self) -> float:
        """log₁₀ of the gradient's norm at the end over that at the beginning; negative where it shrinks."""
        return float(sum(term.decades for term in self.terms))

    @cached_property
    def per_step(self) -> Doubles:
        """The same in each recorded step. Shape (step,)."""
        return np.asarray(np.sum([term.per_step for term in self.terms], axis=0))

    @cached_property
    def by_kind(self) -> Mapping[Kind, float]:
        """The sums of the kinds that occur, the most negative first."""
        sums: dict[Kind, float] = {}
        for term in self.terms:
            sums[term.kind] = sums.get(term.kind, 0.0) + term.decades
        return dict(sorted(sums.items(), key=lambda item: item[1]))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The terms by class, the largest first."""
        found: dict[tuple[Kind, str], list[Term]] = {}
        for term in self.terms:
            found.setdefault((term.kind, term.module_type), []).append(term)
        groups = (
            Group(
                kind=kind,
                module_type=name,
                modules=tuple(term.module or "(model)" for term in terms),
                decades=sum(term.decades for term in terms),
                bound=terms[0].bound,
            )
            for (kind, name), terms in found.items()
        )
        return tuple(sorted(groups, key=lambda group: -abs(group.decades)))

    @property
    def sentence(self) -> str:
        """``−11.2 decades between `head` and `net.0`: −9.8 in 12 Sigmoids (0.153 each, bound 0.25), …``."""
        where = f"{signed(self.decades)} decades between `{self.late}` and `{self.early}`{self._of_several}"
        said = f"{where}: {self.in_words}." if self.in_words else f"{where}."
        through = [inner for term in self.beside for inner in term.within]
        return " ".join([said, *(f"Through time {signed(t.decades)} in `{t.module}` ({t.about})." for t in through)])

    @property
    def _of_several(self) -> str:
        if not self.others:
            return ""
        shown = [str(other) for other in sorted(self.others, key=lambda o: -abs(o.decades))[:_MOST_OTHERS]]
        more = len(self.others) - len(shown)
        words = ", ".join(shown) + (f" and {more} more" if more else "")
        return f", the branch that {'loses' if self.decades < 0 else 'gains'} the most ({words})"

    @cached_property
    def in_words(self) -> str:
        """The groups that count, as a clause; those that go the way of the whole come first."""
        largest = max((abs(group.decades) for group in self.groups), default=0.0)
        least = max(_LEAST_SHARE * largest, _LEAST_DECADES)
        shown = [group for group in self.groups if abs(group.decades) >= least][:_MOST_GROUPS]
        shown.sort(key=lambda group: group.decades if self.decades < 0 else -group.decades)
        rest = self.decades - sum(group.decades for group in shown)
        words = [str(group) for group in shown]
        if words and abs(rest) >= _LEAST_DECADES:
            words.append(f"{signed(rest)} in the rest")
        return ", ".join(words)

    def between(self, late: str, early: str) -> "Budget | None":
        """The part of the way from what `late` returns to what `early` returns; None where the way has no such part."""
        ends = [i for i, term in enumerate(self.terms) if term.is_module and term.module == late]
        begins = [i for i, term in enumerate(self.terms) if term.is_module and term.module == early]
        start = ends[0] if ends else len(self.terms)
        stop = begins[-1] if begins else len(self.terms) if early == self.early else 0
        if start >= stop:
            return None
        return replace(self, late=late, early=early, terms=self.terms[start:stop], beside=(), others=())

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {
            "late": self.late,
            "early": self.early,
            "decades": self.decades,
            "sentence": self.sentence,
            "by_kind": {kind.value: decades for kind, decades in self.by_kind.items()},
            "terms": [term.to_dict() for term in self.terms],
            "beside": [term.to_dict() for term in self.beside],
            "others": [{"late": o.late, "early": o.early, "decades": o.decades} for o in self.others],
        }

    def __str__(self) -> str:
        return self.sentence

    def __repr__(self) -> str:
        return f"<Budget: {self.sentence}>"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from gradscope.reports.budget_text import budget_lines  # how it looks is the reports' business

        yield from budget_lines(self, options)


@once
def budget_of(trace: Trace) -> Budget | None:
    """The budget of a recording; None where it is not known who feeds whom, or fewer than two gradients were seen."""
    way = way_back(trace)
    if not way.legs:
        return None
    totals = np.sum([leg.decades for leg in way.legs], axis=0)
    rows = _middle_half(totals)
    terms, late, early = Terms(trace, rows), *_ends(way.legs)
    return Budget(
        late=late,
        early=early,
        terms=terms.of(way.legs),
        rows=tuple(rows.tolist()),
        steps=tuple(trace.steps[rows].tolist()),
        recorded=int((~np.isnan(totals)).sum()),
        beside=() if way.legs[-1].is_module else terms.beside(early),
        others=tuple(_other(legs, rows) for legs in way.others),
    )


def why_none(trace: Trace) -> str:
    """Why a recording has no budget, as a clause."""
    columns = [*trace.columns(Quantity.OUTPUT_GRAD), *trace.columns(Quantity.INPUT_GRAD)]
    norms, broken = (trace.statistics[s][:, columns] for s in (Statistic.L2_NORM, Statistic.NONFINITE_COUNT))
    unsound = (broken > 0) | np.isinf(norms)
    sound = ~np.isnan(norms) & ~unsound
    modules = {trace.sites[columns[i]].module for i in np.flatnonzero((sound | unsound).any(axis=0))}
    numel = trace.statistics[Statistic.NUMEL][:, columns]
    if not modules and (numel == 0).any():
        return "the gradients that were recorded have no elements, as of an empty batch"
    if not modules:
        return "no gradient of any module's output was recorded"
    if not sound.any():
        return "every gradient that was recorded holds NaN or infinite values"
    if not (norms[sound] > 0).any():
        return "every gradient that was recorded is exactly zero"
    if len(modules) == 1:
        one = modules.pop()
        said = f"only one module, `{one}`, has gradients" if one else "the model is one layer"
        return f"{said}, and a budget is of what lies between two"
    if flow_of(trace) is None:
        return (
            "the trace does not tell which module is given what another returns; a model that runs as compiled code,"
            " and a trace of an older gradscope, do not show it"
        )
    return "of no two modules of which one feeds the other is there a gradient, finite and above zero, in one step"


def signed(decades: float, digits: int = 1) -> str:
    """``−11.2`` with a real minus sign, ``+0.3``, ``0.0``."""
    text = f"{abs(decades):.{digits}f}"
    return text if not float(text) else f"{'−' if decades < 0 else '+'}{text}"


def _ends(legs: tuple[Leg, ...]) -> tuple[str, str]:
    return legs[0].late.module or "(model)", legs[-1].early.module or "(model)"


def _other(legs: tuple[Leg, ...], rows: Ints) -> OtherWay:
    late, early = _ends(legs)
    known = np.sum([leg.decades for leg in legs], axis=0)
    known = known[rows] if not np.isnan(known[rows]).all() else known
    return OtherWay(late=late, early=early, decades=float(np.nanmean(known)))


def _middle_half(values: Doubles) -> Ints:
    """Indices of what is known of `values`, without its lowest and highest quarter; in order."""
    known = np.flatnonzero(~np.isnan(values))
    ordered = known[np.argsort(values[known], kind="stable")]
    cut = len(ordered) // 4
    return np.sort(ordered[cut : len(ordered) - cut]).astype(np.int64)

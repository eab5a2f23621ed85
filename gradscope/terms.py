"""What each piece of the gradient's way back does to it, as a line of a budget."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from gradscope.findings import Json
from gradscope.kinds import LARGEST_SLOPE, Kind, kind_of
from gradscope.links import ROWS
from gradscope.records import PARAMETER_QUANTITIES
from gradscope.recurrence import recurrences
from gradscope.trace import Doubles, Ints, Trace
from gradscope.way_back import Leg

# Of such a sum or view each part gets the gradient of the whole, so a path of nothing else hands it back as it is.
_PASSING = ("Add", "Sub", "View", "Reshape", "Alias", "ToCopy", "Clone", "Permute", "Transpose", "Squeeze", "Unsqueeze")
_NOTHING = 1e-6  # decades: rounding
_WIDE = 3.0  # a bound from the norms that leaves more than this factor open says nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """What one piece of the way does.

    Attributes:
        module: The module; of what lies between modules, the smallest one that holds both ends.
        module_type: Its class; of functions their names.
        kind: What it is.
        decades: log₁₀ of the gain, negative where the gradient shrinks: the mean over the middle half of the steps.
            NaN where it cannot be told.
        per_step: The same in each recorded step. Shape (step,); NaN where not known.
        bound: The largest slope of an activation function, where it has one below 1.
        calls: How many calls of the module it is about; of a cell in a loop many.
        exact: Whether the gain is the module's alone: nothing else takes part in the gradient of what it is given.
        within: What lies on the branches, or in the time steps of a recurrence. It is part of no sum.
        about: What more is known, as a phrase.
        leads_to: Of a branch, the module to whose output it leads back.
    """

    module: str
    module_type: str
    kind: Kind
    decades: float
    per_step: Doubles
    bound: float | None = None
    calls: int = 1
    exact: bool = True
    within: tuple["Term", ...] = ()
    about: str = ""
    leads_to: str = ""

    @property
    def gain(self) -> float:
        """The factor by which the norm changes on the way back."""
        return float(10**self.decades)

    @property
    def is_module(self) -> bool:
        """Whether it is what one module does."""
        return self.kind not in (Kind.SKIP, Kind.BRANCHES) and not self.is_between

    @property
    def is_between(self) -> bool:
        """Whether it is what functions between modules do."""
        return self.kind is Kind.OTHER and self.module_type[:1].islower()

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {
            "module": self.module,
            "module_type": self.module_type,
            "kind": self.kind.value,
            "decades": self.decades,
            "gain": self.gain,
            "bound": self.bound,
            "calls": self.calls,
            "exact": self.exact,
            "about": self.about,
            "within": [term.to_dict() for term in self.within],
        }


class Terms:
    """Makes terms of legs.

    Args:
        trace: What was recorded.
        rows: The steps that count, as indices.
    """

    def __init__(self, trace: Trace, rows: Ints) -> None:
        self._rows = rows
        self._types = {site.module: site.module_type for site in trace.sites}
        self._weighted = {site.module for site in trace.sites if site.quantity in PARAMETER_QUANTITIES}
        self._through_time: dict[str, list[Term]] = {}
        for recurrence in recurrences(trace):
            with np.errstate(divide="ignore", invalid="ignore"):
                per_step = np.log10(recurrence.gain_per_step)
            known = per_step[np.isfinite(per_step)]
            if len(known):
                of = self._through_time.setdefault(recurrence.module, [])
                of.append(_through_time(recurrence.label, float(np.median(known)), float(np.median(recurrence.lag))))

    def of(self, legs: Iterable[Leg]) -> tuple[Term, ...]:
        """What legs that follow each other do; what does nothing is left out, calls of one module in a row are one."""
        found: list[Term] = []
        for leg in legs:
            term = self._term(leg)
            last = found[-1] if found else None
            if term.is_between and abs(term.decades) <= _NOTHING:
                continue
            if last is not None and self._is_loop(last, term):
                found[-1] = self._joined(last, term)
            else:
                found.append(term)
        return tuple(found)

    def beside(self, module: str) -> tuple[Term, ...]:
        """What happens in the time steps of a recurrent module at which the way ends; none of any other."""
        within = tuple(self._through_time.get(module, ()))
        if not within:
            return ()
        return (
            Term(
                module=module,
                module_type=self._types.get(module, ""),
                kind=Kind.RECURRENCE,
                decades=float("nan"),
                per_step=np.zeros(0),
                within=within,
            ),
        )

    def _term(self, leg: Leg) -> Term:
        if leg.is_module:
            return self._module(leg, leg.late.module)
        named = {module for modules in leg.modules for module in modules}
        if not named:
            return self._functions(leg)
        if len(named) == 1 and not leg.skipped:  # the calls of a cell in a loop, or one whose input was not seen
            return replace(self._module(leg, named.pop()), exact=False)
        return self._branches(leg)

    def _mean(self, per_step: Doubles) -> float:
        known = per_step[self._rows]
        known = known[~np.isnan(known)]
        return float(np.mean(known)) if len(known) else float("nan")

    def _module(self, leg: Leg, module: str) -> Term:
        name = self._types.get(module, "")
        slope = LARGEST_SLOPE.get(name, 1.0)
        return Term(
            module=module,
            module_type=name,
            kind=kind_of(name, has_weight=module in self._weighted),
            decades=self._mean(leg.decades),
            per_step=leg.decades,
            bound=slope if slope < 1 else None,
            exact=leg.whole,
            within=tuple(self._through_time.get(module, ())),
        )

    def _functions(self, leg: Leg) -> Term:
        return Term(
            module=_shared((leg.early.module, leg.late.module)),
            module_type=_function_names(leg.functions),
            kind=Kind.OTHER,
            decades=self._mean(leg.decades),
            per_step=leg.decades,
        )

    def _branches(self, leg: Leg) -> Term:
        passes = leg.skipped and all(name.startswith(_PASSING) for name in leg.functions)
        decades = self._mean(leg.decades)
        return Term(
            module=_shared([module for modules in leg.modules for module in modules]),
            module_type="skip" if leg.skipped else "branches",
            kind=Kind.SKIP if leg.skipped else Kind.BRANCHES,
            decades=decades,
            per_step=leg.decades,
            within=tuple(self._branch(*each) for each in zip(leg.modules, leg.branches, strict=False)),
            about=_of_the_branch(10**decades) if passes else "",
        )

    def _branch(self, modules: tuple[str, ...], legs: tuple[Leg, ...]) -> Term:
        """As far as its own modules alone take part: from its end to what its first module returns."""
        while legs and legs[-1].is_module and not legs[-1].whole:
            legs = legs[:-1]
        per_step = np.sum([leg.decades for leg in legs], axis=0) if legs else np.full(0, np.nan)
        first, last = (legs[-1].early.module, legs[0].late.module) if legs else ("", "")
        return Term(
            module=_shared(modules),
            module_type="branch",
            kind=Kind.BRANCHES,
            decades=self._mean(per_step) if legs else float("nan"),
            per_step=per_step,
            exact=False,
            within=self.of(legs),
            about=f"to what {first} returns" if first not in ("", last) else "",
            leads_to=first,
        )

    def _is_loop(self, last: Term, term: Term) -> bool:
        """Whether both are of one module that runs again and again, with at most functions between."""
        same = last.module == term.module and last.module in self._types
        return same and Kind.RECURRENCE in (last.kind, term.kind) and (last.is_module or last.is_between)

    def _joined(self, last: Term, term: Term) -> Term:
        whole = last if last.is_module else term
        per_step = last.per_step + term.per_step
        return replace(
            whole,
            decades=self._mean(per_step),
            per_step=per_step,
            calls=last.calls * last.is_module + term.calls * term.is_module,
            exact=last.exact and term.exact,
        )


def _of_the_branch(ratio: float) -> str:
    """What a branch can add where the path around hands back exactly what arrives: by the triangle inequality.

    Where that says little, as near a ratio of 1, it is left out.
    """
    least, most = abs(ratio - 1), ratio + 1
    if not most <= _WIDE * least * (1 + _NOTHING):
        return ""
    return f"the skip hands back 1 of what arrives, so the branch {least:.2g} at least and {most:.2g} at most"


def _through_time(label: str, per_step: float, lag: float) -> Term:
    return Term(
        module=label,
        module_type="time steps",
        kind=Kind.RECURRENCE,
        decades=per_step * lag,
        per_step=np.zeros(0),
        exact=False,
        about=f"{10**per_step:.3g} in each of {lag:.0f}",
    )


def _function_names(functions: Iterable[str]) -> str:
    bare = (name.removesuffix(ROWS).rstrip("0123456789") for name in functions)
    names = dict.fromkeys(name.removesuffix("Backward").lower() for name in bare)
    return ", ".join(names) or "functions"


def _shared(modules: Iterable[str]) -> str:
    """The innermost module that holds all of them."""
    shared: list[str] = []
    for level in zip(*_paths(modules), strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _paths(modules: Iterable[str]) -> Iterator[list[str]]:
    return (module.split(".") for module in modules)

"""How large a quantity is along the depth of a model or along its sequence: what charts and figures draw.

One number a place: the median over the recorded steps of the rms. Beside it, what a median would hide: NaN or Inf in
any step, and places that were never observed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradscope.records import PARAMETER_QUANTITIES, Quantity, Site, Statistic
from gradscope.reports.decades import drawable
from gradscope.reports.passage import Part, Passage, column_medians, median, passages, rows_of
from gradscope.trace import Doubles, Floats, Ints, Trace

# Where no state's gradient was recorded. The gradient of a fused layer's output sequence is only its local part.
TIME_QUANTITIES = (Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD)
FEWEST_TIMES = 8  # shorter sequences, and modules that ran a few times a step, are no story about time
FEWEST_LAYERS, FEWEST_LAYERS_WITH_TIME = 3, 7  # fewer make no story about depth

SYMBOL = {
    Quantity.INPUT: "x",
    Quantity.OUTPUT: "y",
    Quantity.INPUT_GRAD: "∂L/∂x",
    Quantity.OUTPUT_GRAD: "∂L/∂y",
    Quantity.STATE: "h",
    Quantity.STATE_GRAD: "∂L/∂h",
    Quantity.GATE: "gate",
    Quantity.WEIGHT: "w",
    Quantity.WEIGHT_GRAD: "∂L/∂w",
    Quantity.APPLIED_GRAD: "∂L/∂w as applied",
    Quantity.WEIGHT_UPDATE: "Δw",
    Quantity.LOSS: "loss",
    Quantity.TOTAL_NORM: "‖∂L/∂w‖",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """rms of one quantity along one axis.

    Attributes:
        axis: Along the layers, or along the positions of a sequence.
        quantity: Whose rms.
        symbol: How the quantity is written.
        where: The module, for an axis of time; else "".
        places: A name for each position of the axis.
        modules: The module at each position, "" on an axis of time.
        rms: Median over the steps; NaN where no step has a finite value. Shape (place,).
        nonfinite: Whether any step had NaN or Inf there. Shape (place,).
        seen: Whether it was observed in any step. Shape (place,).
        reverse: Whether a recurrence goes from the last position to the first; its gradient then travels to the last.
        memory: Positions back from the end at which a gradient has fallen to `FORGOTTEN`; NaN if unknown, inf if never.
        lag: Positions that the gradient could travel.
        cuts: Positions before which the gradient stops, though the state came from there.
    """

    axis: Literal["depth", "time"]
    quantity: Quantity
    symbol: str
    where: str
    places: tuple[str, ...]
    modules: tuple[str, ...]
    rms: Doubles
    nonfinite: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    reverse: bool = False
    memory: float = float("nan")
    lag: float = float("nan")
    cuts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def positive(self) -> Doubles:
        """The values that a logarithmic axis can show."""
        return self.rms[np.isfinite(self.rms) & (self.rms > 0)]

    @property
    def first_to_last(self) -> float:
        """The first place's rms over the last's, in reverse the other way; what is left of a gradient after its way."""
        ends = self.rms[np.isfinite(self.rms)][:: -1 if self.reverse else 1]
        return float(ends[0] / ends[-1]) if len(ends) and ends[-1] > 0 else float("nan")

    @property
    def memory_mark(self) -> tuple[float, float]:
        """The position at which the memory ends, and the height of the line there; NaN where it does not end."""
        seen = np.flatnonzero(drawable(self.rms) > 0)
        if not len(seen) or not self.memory <= self.lag:
            return np.nan, np.nan
        at = seen[0] + self.memory if self.reverse else seen[-1] - self.memory
        known: Doubles = np.log10(self.rms[seen])
        return float(at), float(10 ** np.interp(at, seen, known))

    def line(self, where: Ints) -> tuple[Doubles, Doubles]:
        """The places `where` with their rms, for a logarithmic axis: with gaps, one of them before each cut."""
        inside = [cut for cut in self.cuts if 0 < cut < len(self)]
        return np.insert(where.astype(np.float64), inside, np.nan), np.insert(drawable(self.rms), inside, np.nan)


def positions(profile: Profile, aligned: bool) -> Ints:
    """Of an axis of time; aligned at the ends of sequences, the last is 0."""
    return np.arange(len(profile)) - (len(profile) - 1 if aligned else 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """One statistic of one quantity, over the steps and the layers of a trace.

    Attributes:
        sites: By depth.
        values: Shape (step, site), as the next two.
        nonfinite: Whether it had NaN or Inf.
        seen: Whether it was observed.
    """

    sites: tuple[Site, ...]
    values: Doubles
    nonfinite: NDArray[np.bool_]
    seen: NDArray[np.bool_]


def layers(trace: Trace, quantity: Quantity, stat: Statistic = Statistic.RMS, *, module: str | None = None) -> Layers:
    """Those for which it is known in some step, or was not finite; of the modules that `module` names, where it does.

    `module` is a name, or names by wildcard: `encoder.*`.
    """
    found = frozenset(trace.by_depth(quantity, stat)[0])
    columns = [
        column
        for column in trace.columns(quantity)
        if (site := trace.sites[column]) in found and (module is None or _is_named(site.module, module))
    ]
    values = trace.statistics[stat][:, columns].astype(np.float64)
    nonfinite = trace.statistics[Statistic.NONFINITE_COUNT][:, columns] > 0
    kept = np.flatnonzero((~np.isnan(values) | nonfinite).any(axis=0))
    numel = trace.statistics[Statistic.NUMEL][:, columns]
    return Layers(
        sites=tuple(trace.sites[columns[i]] for i in kept),
        values=values[:, kept],
        nonfinite=nonfinite[:, kept],
        seen=~np.isnan(numel[:, kept]),
    )


def depth_profile(
    traces: Sequence[Trace], quantity: Quantity, stat: Statistic = Statistic.RMS, *, module: str | None = None
) -> Profile | None:
    """The profile over the layers of one model, recorded in one or more runs; None if nothing was observed.

    Of another `stat` than the rms, its `rms` is the median of that. `module` as of `layers`.
    """
    runs = [layers(trace, quantity, stat, module=module) for trace in traces]
    sites = runs[0].sites
    if not sites:
        return None
    runs = [run for run in runs if run.sites == sites]
    values = np.concatenate([run.values for run in runs])
    nonfinite = np.concatenate([run.nonfinite for run in runs])
    seen = np.concatenate([run.seen for run in runs])
    modules = tuple(s.module for s in sites)
    return _profile(values, nonfinite, seen, "depth", quantity, "", tuple(map(place, sites)), modules)


def depth_story(traces: Sequence[Trace]) -> Profile | None:
    """The gradient by depth, if the depth is what matters: not in a few layers around a recurrence."""
    profile = depth_profile(traces, Quantity.OUTPUT_GRAD)
    if profile is None or len(profile) < (FEWEST_LAYERS_WITH_TIME if time_profile(traces) else FEWEST_LAYERS):
        return None
    return profile


def time_profile(traces: Sequence[Trace], part: Part = "all") -> Profile | None:
    """The profile of a gradient over the sequence; None if no gradient has at least `FEWEST_TIMES` positions.

    Of several recurrent layers it is the last's, forward if it has both directions: what vanishes there is not there
    for those below.
    """
    each = [[p for p in passages(trace) if p.times >= FEWEST_TIMES] for trace in traces]
    if each[0]:
        telling = [p for p in each[0] if not p.recurrence.reverse] or each[0]
        return passage_profile([p for found in each for p in found if p.place == telling[-1].place], part)
    site = _time_site(traces[0])
    return None if site is None else site_profile(traces, site, part=part)


def site_profile(
    traces: Sequence[Trace], site: Site, stat: Statistic = Statistic.RMS, *, part: Part = "all"
) -> Profile:
    """The profile of one site over its positions; of another `stat` than the rms, as of `depth_profile`."""
    read = [
        [t.by_time(site.module, site.quantity, s, name=site.name) for t in traces]
        for s in (stat, Statistic.NONFINITE_COUNT, Statistic.NUMEL)
    ]
    length = min(values.shape[1] for values in read[0])  # sequences of other runs may be longer
    rows = [rows_of(len(trace.steps), part) for trace in traces]
    stacked = [np.concatenate([v[r, :length] for v, r in zip(read_of, rows, strict=True)]) for read_of in read]
    rms, nonfinite, numel = stacked
    return _profile(
        rms, nonfinite > 0, ~np.isnan(numel), "time", site.quantity, site.module, _positions(length), ("",) * length
    )


def passage_profile(runs: Sequence[Passage], part: Part = "all") -> Profile:
    """The profile of one recurrent layer and direction, recorded in one or more runs."""
    length = min(p.times for p in runs)
    rows = [rows_of(len(p.steps), part) for p in runs]
    rms, nonfinite, seen = (
        np.concatenate([values[r, :length] for values, r in zip(each, rows, strict=True)])
        for each in ([p.rms for p in runs], [p.nonfinite for p in runs], [p.seen for p in runs])
    )
    first = runs[0]
    profile = _profile(
        rms, nonfinite, seen, "time", Quantity.STATE_GRAD, first.name, _positions(length), ("",) * length
    )
    return replace(
        profile,
        symbol=first.symbol,
        reverse=first.recurrence.reverse,
        memory=median(np.array([p.memory(part=part) for p in runs])),
        lag=median(np.array([p.lag for p in runs])),
        cuts=first.cuts,
    )


def place(site: Site) -> str:
    """A site's name on an axis: the module, with the parameter or the part of a nested output where there is one."""
    module = site.module or "(model)"
    if site.quantity in PARAMETER_QUANTITIES:
        return module if site.name == "weight" else f"{module}.{site.name}"
    return f"{module}[{site.name}]" if site.name not in ("", "0") else module


def without_shared_prefix(names: Sequence[str]) -> list[str]:
    """The names without the dotted parts that all of them begin with; the last part stays."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1 and len(parts) > 1:
        shared += 1
    return [".".join(p[shared:]) for p in parts]


def _is_named(module: str, pattern: str) -> bool:
    return module == pattern or fnmatchcase(module, pattern)


def _profile(
    rms: Floats | Doubles,
    nonfinite: NDArray[np.bool_],
    seen: NDArray[np.bool_],
    axis: Literal["depth", "time"],
    quantity: Quantity,
    where: str,
    places: tuple[str, ...],
    modules: tuple[str, ...],
) -> Profile:
    return Profile(
        axis=axis,
        quantity=quantity,
        symbol=SYMBOL[quantity],
        where=where,
        places=places,
        modules=modules,
        rms=column_medians(rms.astype(np.float64)),
        nonfinite=np.asarray(nonfinite.any(axis=0)),
        seen=np.asarray(seen.any(axis=0)),
    )


def _positions(length: int) -> tuple[str, ...]:
    return tuple(map(str, range(length)))


def _time_site(trace: Trace) -> Site | None:
    if not len(trace.times.site):
        return None
    longest = np.zeros(len(trace.sites), dtype=np.int64)
    np.maximum.at(longest, trace.times.site, trace.times.time + 1)
    for quantity in TIME_QUANTITIES:
        for column in trace.columns(quantity):
            if longest[column] >= FEWEST_TIMES:
                return trace.sites[column]
    return None

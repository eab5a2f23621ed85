"""The finished recording, columnar. Rules and reports read it and nothing else.

A value has three states: a number, zero, and *never observed* (NaN in every statistic, `numel` included).
`TraceBuilder` collects the records of a run in memory; `storage.TraceWriter` does the same on disk.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import TraceError, nearest
from gradscope.findings import Json
from gradscope.once import once
from gradscope.records import STATISTICS, Event, Quantity, Site, Statistic

if TYPE_CHECKING:
    import pandas as pd

    from gradscope.reports.plots import Plots

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

PER_STEP = ("loss", "lr", "loss_scale")
BY_RANK = (Statistic.RMS, Statistic.NONFINITE_COUNT)  # what a merge keeps of each rank


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Everything recorded in one step, on its way to a trace.

    Attributes:
        step: Number of the optimizer step, from 0.
        per_step: Values for `PER_STEP`; a missing one is NaN.
        values: (site, statistic), over all executions of the step; NaN where not observed.
        time_index: (row, 2): site and time of each row of `time_values`.
        time_values: (row, statistic), for sites that have a time axis or ran more than once.
        events: What happened to the recording.
        silent: Sites of activations, and for each of their units whether it was silent; of several processes only.
    """

    step: int
    per_step: Mapping[str, float]
    values: Floats
    time_index: NDArray[np.int32]
    time_values: Floats
    events: tuple[Event, ...] = ()
    silent: Sequence[tuple[int, NDArray[np.bool_]]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTable:
    """Values per time, in long form: row i is at index `step[i]` of `Trace.steps`, of `site[i]`, at `time[i]`.

    Attributes:
        statistics: One array (row,) for each of `STATISTICS`.
    """

    step: NDArray[np.int32]
    site: NDArray[np.int32]
    time: NDArray[np.int32]
    statistics: Mapping[str, Floats]

    @property
    def values(self) -> Floats:
        """All of them, (row, statistic)."""
        return np.stack([self.statistics[s] for s in STATISTICS], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTable:
    """Which units of activations were silent, in the file of one rank: what a merge needs for the dead fractions.

    Row i is at index `step[i]` of `Trace.steps`, of `site[i]`, which has `units[i]` units. Their bits begin with a new
    byte of `bits` (`numpy.packbits`): 1 is silent.
    """

    step: NDArray[np.int32]
    site: NDArray[np.int32]
    units: NDArray[np.int32]
    bits: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTable:
    """What each rank has measured by itself, in a trace that was merged.

    Attributes:
        ranks: Their numbers.
        statistics: One array (step, site, rank) for each of `BY_RANK`.
    """

    ranks: tuple[int, ...]
    statistics: Mapping[str, Floats]


def no_units() -> UnitTable:
    """The table of a recording that is not one of several ranks."""
    none = np.zeros(0, dtype=np.int32)
    return UnitTable(step=none, site=none, units=none, bits=np.zeros(0, dtype=np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Trace:
    """A finished recording.

    Attributes:
        meta: Versions, model, optimizers, schedule; JSON types.
        sites: What each column is about, in the order of registration.
        steps: Numbers of the recorded steps, ascending. Shape (step,).
        per_step: "loss", "lr" (of the first parameter group) and "loss_scale", each of shape (step,); NaN if unknown.
        statistics: One array (step, site) for each of `STATISTICS`; NaN where the site was not observed.
        times: Values per time.
        events: What happened to the recording.
        units: In the file of one rank, which units were silent.
        ranks: In a trace that was merged, what each rank has measured.
    """

    meta: Mapping[str, Json]
    sites: tuple[Site, ...]
    steps: Ints
    per_step: Mapping[str, Doubles]
    statistics: Mapping[str, Floats]
    times: TimeTable
    events: tuple[Event, ...] = field(default=())
    units: UnitTable = field(default_factory=no_units)
    ranks: RankTable | None = None

    def columns(self, quantity: Quantity | str, module: str | None = None, name: str | None = None) -> list[int]:
        """Indices of the sites of `quantity`, by depth; of one module and one name, where given."""
        wanted = _quantity(quantity)
        found = _columns_of(self).get(wanted if module is None else (wanted, module), [])
        return [index for index in found if name is None or self.sites[index].name == name]

    def by_depth(self, quantity: Quantity | str, stat: Statistic | str) -> tuple[tuple[Site, ...], Floats]:
        """Sites of `quantity` that were observed at least once, by depth, and their `stat` of shape (step, depth).

        Sites without elements, such as a head of attention, are left out where `stat` is of elements.
        """
        columns = list(self.columns(quantity))
        numel, values = (self.statistics[s][:, columns] for s in (Statistic.NUMEL, _statistic(stat)))
        seen = (numel > 0).any(axis=0)
        if stat not in (Statistic.NUMEL, Statistic.NONFINITE_COUNT):
            seen |= (~np.isnan(numel) & ~np.isnan(values)).any(axis=0)
        found = np.flatnonzero(seen)
        return tuple(self.sites[columns[i]] for i in found), values[:, found]

    def column(self, module: str, quantity: Quantity | str, name: str | None = None) -> int:
        """Index of one site. Without `name`, the first that was registered for the module; ``"fc.weight"`` is fine too.

        Raises:
            TraceError: There is no such site.
        """
        found = self.columns(quantity, module, name)
        if not found and name is None:
            dots = [at for at, letter in enumerate(module) if letter == "."]  # a parametrized weight's name has some
            parts = [("", module), *((module[:at], module[at + 1 :]) for at in dots)]
            found = next((at for part in reversed(parts) if (at := self.columns(quantity, *part))), found)
        if not found:
            wanted = _quantity(quantity)
            names = {site.name for site in self.sites if site.quantity is wanted and site.module == module}
            if name is not None and names:
                raise TraceError(f"the trace has no {wanted.value} {name!r} of module {module!r}{nearest(name, names)}")
            modules = {site.module for site in self.sites if site.quantity is wanted}
            raise TraceError(f"the trace has no {wanted.value} of module {module!r}{nearest(module, modules)}")
        return min(found)

    def series(
        self, module: str, quantity: Quantity | str, stat: Statistic | str, *, name: str | None = None
    ) -> Floats:
        """`stat` of one site over the steps, shape (step,). Raises as `column`."""
        return self.statistics[_statistic(stat)][:, self.column(module, quantity, name)]

    def by_time(
        self, module: str, quantity: Quantity | str, stat: Statistic | str, *, name: str | None = None
    ) -> Floats:
        """`stat` of one site over the time within a step, shape (step, time); NaN where not observed.

        A site without a time axis that ran once a step has one column. Raises as `column`.
        """
        column = self.column(module, quantity, name)
        rows = np.flatnonzero(self.times.site == column)
        if not len(rows):
            return self.statistics[_statistic(stat)][:, [column]]
        length = int(self.times.time[rows].max()) + 1
        values = np.full((len(self.steps), length), np.nan, dtype=np.float32)
        single = np.ones(len(self.steps), dtype=bool)  # steps in which the site ran just once, so has no time rows
        single[self.times.step[rows]] = False
        values[single, 0] = self.statistics[_statistic(stat)][single, column]
        values[self.times.step[rows], self.times.time[rows]] = self.times.statistics[_statistic(stat)][rows]
        return values

    def by_rank(
        self, module: str, quantity: Quantity | str, stat: Statistic | str, *, name: str | None = None
    ) -> Floats:
        """`stat`, "rms" or "nonfinite_count", of one site on each rank, shape (step, rank), in the order of `ranks`.

        Of a parameter that is sharded it is that of the rank's shard.

        Raises:
            TraceError: There is no such site, the trace is not merged from ranks, or `stat` was not kept of each rank.
        """
        column = self.column(module, quantity, name)
        if self.ranks is None:
            raise TraceError("the trace is of one process; `gradscope merge` keeps what each rank has measured.")
        if _statistic(stat) not in self.ranks.statistics:
            raise TraceError(f"{str(stat)!r} is not kept of each rank{nearest(str(stat), self.ranks.statistics)}")
        return self.ranks.statistics[_statistic(stat)][:, column]

    def observed(self, index: int) -> NDArray[np.bool_]:
        """In which steps site `index` was observed. Shape (step,)."""
        return ~np.isnan(self.statistics[Statistic.NUMEL][:, index])

    def to_frame(self) -> "pd.DataFrame":
        """One row for each observed (step, site), with `time` missing, and one for each (step, site, time).

        A row whose `time` is <NA> is over the whole step; do not add it to the rows of its times. The rows are in the
        order of step, depth, site and time, that of the whole step first.
        """
        import pandas as pd

        step, site = np.nonzero(~np.isnan(self.statistics[Statistic.NUMEL]))
        whole = np.stack([self.statistics[s][step, site] for s in STATISTICS], axis=1)
        rows = np.concatenate([whole, self.times.values])
        steps = self.steps[np.concatenate([step, self.times.step])]
        sites = np.concatenate([site, self.times.site]).astype(np.intp)
        times = np.concatenate([np.full(len(step), -1), self.times.time])
        depths = np.array([s.depth for s in self.sites], dtype=np.int64)[sites]
        order = np.lexsort((times, sites, depths, steps))
        rows, steps, sites, times, depths = rows[order], steps[order], sites[order], times[order], depths[order]

        def of_site(attribute: str) -> "pd.Categorical":
            # few distinct values in many rows: pandas need not look at a million strings
            return pd.Categorical([str(getattr(s, attribute)) for s in self.sites]).take(sites)

        return pd.DataFrame(
            {
                "step": steps,
                "time": pd.arrays.IntegerArray(times.astype(np.int64), times < 0),
                **{a: of_site(a).astype(str) for a in ("module", "module_type", "quantity", "name")},
                "depth": depths,
                **{s.value: rows[:, i] for i, s in enumerate(STATISTICS)},
            }
        )

    def save(self, path: str | Path) -> None:
        """Writes the trace as HDF5; an existing file is replaced only when the new one is complete."""
        from gradscope.storage import save_trace  # storage imports this module

        save_trace(self, path)

    @property
    def plot(self) -> "Plots":
        """Figures for a paper: `plot.depth()`, `.time()`, `.map()` and `.budget()`, on matplotlib's axes."""
        from gradscope.reports.plots import Plots  # it imports matplotlib

        return Plots(self)

    def __repr__(self) -> str:
        model = str(self.meta.get("model") or "model")
        return f"<Trace of {model}: {len(self.steps)} steps, {len(self.sites)} sites>"

    def _repr_html_(self) -> str:
        from gradscope.reports.notebook import trace_html  # how it looks is the reports' business

        return trace_html(self)


class Sink(Protocol):
    """Where the records of a running recording go: to memory (`TraceBuilder`) or to disk (`storage.TraceWriter`).

    Attributes:
        last_call: Called before the sink is closed, by the end of the process too: may append what is complete.
    """

    last_call: Callable[[], None] | None

    def append(self, record: StepRecord, sites: Sequence[Site], meta: Mapping[str, Json]) -> None:
        """Adds a step; `sites` and `meta` are as of now."""
        ...

    def finish(self, sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event] = ()) -> Trace:
        """The trace of what was appended so far; more may follow."""
        ...

    def note(self, sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event]) -> None:
        """What `finish` would be given now, where nobody wants the trace: it may be larger than the memory."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Follower(Protocol):
    """Someone who looks on while a training runs, an experiment tracker for one. See `Scope.follow`."""

    def recorded(self, record: StepRecord, sites: Sequence[Site]) -> None:
        """A recorded step has ended; `sites` are those of its values."""
        ...

    def ended(self) -> None:
        """The scope was detached."""
        ...


class TraceBuilder:
    """Collects the records of a run in memory. `append` in the order of the steps, `finish` as often as wanted."""

    def __init__(self) -> None:
        self.last_call: Callable[[], None] | None = None
        self._records: list[StepRecord] = []

    def append(self, record: StepRecord, sites: Sequence[Site], meta: Mapping[str, Json]) -> None:
        """Adds a step. `sites` and `meta` are as of now; here only `finish` needs them."""
        self._records.append(record)

    def finish(self, sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event] = ()) -> Trace:
        """The trace of what was appended so far; `events` are those that belong to no recorded step."""
        records = self._records
        values = np.full((len(records), len(sites), len(STATISTICS)), np.nan, dtype=np.float32)
        for row, record in enumerate(records):
            values[row, : len(record.values)] = record.values
        index = np.concatenate([np.zeros((0, 2), np.int32), *(r.time_index for r in records)])
        lengths = [len(r.time_index) for r in records]
        return Trace(
            meta=dict(meta),
            sites=tuple(sites),
            steps=np.array([r.step for r in records], dtype=np.int64),
            per_step={
                name: np.array([r.per_step.get(name, np.nan) for r in records], dtype=np.float64) for name in PER_STEP
            },
            statistics=by_statistic(values),
            times=TimeTable(
                step=np.repeat(np.arange(len(records), dtype=np.int32), lengths),
                site=index[:, 0],
                time=index[:, 1],
                statistics=by_statistic(
                    np.concatenate([np.zeros((0, len(STATISTICS)), np.float32), *(r.time_values for r in records)])
                ),
            ),
            events=tuple(e for r in records for e in r.events) + tuple(events),
            units=_units_of(records),
        )

    def note(self, sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event]) -> None:
        """In memory only `finish` needs it."""

    def close(self) -> None:
        """Nothing to release in memory."""


def by_statistic(values: Floats) -> dict[str, Floats]:
    """Views of `values` (…, statistic) by the names of the statistics."""
    return {s.value: values[..., i] for i, s in enumerate(STATISTICS)}


def _units_of(records: Sequence[StepRecord]) -> UnitTable:
    rows = [(index, site, silent) for index, record in enumerate(records) for site, silent in record.silent]
    if not rows:
        return no_units()
    return UnitTable(
        step=np.array([index for index, _, _ in rows], dtype=np.int32),
        site=np.array([site for _, site, _ in rows], dtype=np.int32),
        units=np.array([len(silent) for _, _, silent in rows], dtype=np.int32),
        bits=np.concatenate([np.packbits(silent) for _, _, silent in rows]),
    )


@once
def _columns_of(trace: Trace) -> dict[Quantity | tuple[Quantity, str], list[int]]:
    """Indices of the sites by quantity, and by quantity and module, each by depth: rules ask for every layer."""
    found: dict[Quantity | tuple[Quantity, str], list[int]] = {}
    for index in sorted(range(len(trace.sites)), key=lambda at: trace.sites[at].depth):
        site = trace.sites[index]
        found.setdefault(site.quantity, []).append(index)
        found.setdefault((site.quantity, site.module), []).append(index)
    return found


def _quantity(quantity: Quantity | str) -> Quantity:
    try:
        return Quantity(quantity)
    except ValueError:
        raise TraceError(f"{quantity!r} is no quantity{nearest(str(quantity), [q.value for q in Quantity])}") from None


def _statistic(stat: Statistic | str) -> Statistic:
    try:
        return Statistic(stat)
    except ValueError:
        raise TraceError(f"{stat!r} is no statistic{nearest(str(stat), [s.value for s in STATISTICS])}") from None

"""What happens along the sequence inside each recurrent layer: how far back the gradient comes, and how fast it fades.

A trace holds the states' gradients step by step; here they become the figures that rules and reports speak of. One
sequence is a segment: a call of the layer with a state to start from, or several calls that hand the state on.

    total   ∂L/∂h_t, the whole gradient           local    its part from the loss or the layer above, at t itself
    carried its part over the link from t+1       gain     ‖carried_t‖ / ‖what arrived at t+1‖; 1 = kept

Bounds beside the measured gain, for h_t = φ(W h_{t−1} + …) with |φ′| ≤ γ, 1 for tanh and ReLU: each step's Jacobian has
a norm of at most γ σ, σ the largest singular value of W. So σ < 1/γ is sufficient for the gradient to vanish, and
σ > 1/γ necessary for it to explode. Where φ is linear, the spectral radius ρ of W decides in the long run: ρ < 1 is
sufficient for vanishing, ρ > 1 necessary for exploding.

Source: Pascanu, Mikolov & Bengio 2013 (ICML), section 2.1; the first preprint has the eigenvalue in both places, which
its proof does not give.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.records import Quantity, Statistic
from gradscope.trace import Doubles, Ints, Trace

_FUSED = re.compile(r"(?P<state>[hc])(?P<start>0?)_(?P<suffix>l\d+(?:_reverse)?)(?P<part>\.local|\.carried)?")
_LOOP = re.compile(r"(?P<state>[hc])(?P<start>0?)(?P<path>\..+)?")
_SLOPE_BOUND = {"RNN_TANH": 1.0, "RNN_RELU": 1.0}  # γ, the largest |φ′|
_FORGET = {"LSTM": "forget", "GRU": "update"}
_NOTHING_LEFT = 1e-35  # an rms of float32 below has lost its digits: what remains of it says nothing of the link


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recurrence:
    """One layer and direction of a recurrent module, over all recorded sequences.

    A segment is one sequence in one recorded step, usually one a step. Arrays over time hold positions of the segment,
    0 being its first one, also where the direction is the reverse one; NaN where not observed or not finite.

    Attributes:
        module: Name of the module.
        module_type: Its class.
        suffix: "l0", "l0_reverse", "l1", …; "" for a cell in a Python loop.
        mode: "RNN_TANH", "RNN_RELU", "LSTM", "GRU"; "" if unknown.
        reverse: Whether it runs from the last position to the first, so that gradients travel towards the last one.
        columns: Of the trace: the gradients of its states.
        step: Index into `Trace.steps`. Shape (segment,).
        start: Time in the trace at which the segment begins. Shape (segment,).
        window: Positions of the segment. Shape (segment,).
        cut: Whether the segment begins with a state from before to which no gradient goes back: truncated
            backpropagation. Shape (segment,).
        arriving: Size of the gradient that arrives at a position, √(rms(∂L/∂h)² + rms(c carried)²): what comes to c
            through h of the same position is in the first term. Of a loop √(rms(∂L/∂h)² + rms(∂L/∂c)²). Shape
            (segment, time).
        carried: The part of it over the link from the position after, √(rms(h carried)² + rms(c carried)²). None for a
            loop, where it cannot be told from the local part.
        gain: ‖carried_t‖₂ / ‖arriving_{t+1}‖₂; with t−1 in the reverse direction. Of a loop ‖arriving_t‖₂ /
            ‖arriving_{t+1}‖₂, to which the local part of t adds. NaN at the last position. A sequence that is over has
            neither, so sequences of unequal lengths do not disturb it. Shape (segment, time).
        cell_gain: ‖c carried_t‖₂ / ‖∂L/∂c_{t+1}‖₂ of an LSTM: the forget gate, if that is constant. Else None.
        gain_per_step: Geometric mean of `gain` over the positions; 0 where the gradient is lost altogether. Shape
            (segment,).
        lag: Steps that the gradient could travel: from the last position that gets any to the first. Shape (segment,).
        forget: Mean forget gate, of a GRU the update gate, which keeps the state likewise. Shape (segment, time). None
            without gates.
        time_constant: −1 / ln f̄ in time steps, f̄ the mean of `forget`: a state that is only kept falls to 1/e in so
            many. Shape (segment,). None without gates.
        slope: Mean φ′ over the states: 1 − rms(h)² of a tanh, the share of positive states of a ReLU; NaN of others.
            Shape (segment,).
        spectral_radius: Largest |eigenvalue| of the recurrent matrix, of an LSTM or GRU the largest of its gates', as
            last recorded. NaN where never. Shape (segment,).
        spectral_norm: Largest singular value, likewise. Shape (segment,).
        refines: Whether each position is given the same beside the state: a search for a fixed point, no sequence.
    """

    module: str
    module_type: str
    suffix: str
    mode: str
    reverse: bool
    columns: tuple[int, ...]
    step: Ints
    start: Ints
    window: Ints
    cut: NDArray[np.bool_]
    arriving: Doubles
    carried: Doubles | None
    gain: Doubles
    cell_gain: Doubles | None
    gain_per_step: Doubles
    lag: Ints
    forget: Doubles | None
    time_constant: Doubles | None
    slope: Doubles
    spectral_radius: Doubles
    spectral_norm: Doubles
    refines: bool = False

    def __repr__(self) -> str:
        return f"<Recurrence {self.label}: {self.mode or self.module_type}, {len(self.step)} sequences>"

    @property
    def label(self) -> str:
        """Name of the module and, where it has several, of the layer and direction."""
        return " ".join(part for part in (self.module, self.suffix) if part) or "the model"

    def memory(self, factor: float = 1 / math.e) -> Doubles:
        """Time steps back from the end until the product of the gains has fallen to `factor`. Shape (segment,).

        Between two positions the product is taken as geometric. Where the segment is too short to see it, it goes on
        with `gain_per_step`; inf if that does not fall, NaN without any gain.
        """
        gain = self.travelled()
        typical = self.gain_per_step
        with np.errstate(divide="ignore", invalid="ignore"):
            per_step, wanted = np.log(typical), math.log(factor)
            logs = np.log(np.where(np.isnan(gain), typical[:, None], gain))
            logs[np.arange(gain.shape[1]) >= self.lag[:, None]] = 0.0
            total = np.cumsum(logs, axis=1)
            within = (self.lag > 0) & (total <= wanted).any(axis=1)
            k = (total <= wanted).argmax(axis=1) if total.shape[1] else np.zeros(len(typical), dtype=np.intp)
            rows = np.arange(len(typical))
            padded = np.concatenate([np.zeros((len(typical), 1)), total], axis=1)
            before, after = padded[rows, k], padded[rows, k + (padded.shape[1] > 1)]
            share = np.where(np.isinf(after), 1.0, (wanted - before) / (after - before))
            left = wanted - padded[:, -1]
            beyond = np.where(per_step < 0, self.lag + left / per_step, np.inf)
        return np.where(np.isnan(typical), np.nan, np.where(within, k + share, beyond))

    def as_run(self, values: Doubles) -> Doubles:
        """`values` (segment, time) in the order in which the layer runs; as they are if it runs forwards."""
        return _as_run(values, self.window, self.reverse)

    def travelled(self) -> Doubles:
        """`gain` in the order in which the gradient travels, from the last position that gets any.

        The k-th is that of its k-th step back; NaN from the segment's lag on. Shape (segment, lag).
        """
        k = np.arange(int(self.lag.max(initial=0)))
        at = _first_seen(self.as_run(self.arriving))[:, None] + self.lag[:, None] - 1 - k
        inside = k < self.lag[:, None]
        return np.where(inside, np.take_along_axis(self.as_run(self.gain), np.where(inside, at, 0), axis=1), np.nan)

    def conditions(self) -> str:
        """Which of the conditions above hold, beside the gain measured last; "" if the layer has none."""
        bound = _SLOPE_BOUND.get(self.mode)
        known = np.flatnonzero(np.isfinite(self.spectral_norm) & np.isfinite(self.gain_per_step))
        if bound is None or not len(known):
            return ""
        at = known[-1]
        norm, radius, gain = (float(x[at]) for x in (self.spectral_norm, self.spectral_radius, self.gain_per_step))
        limit = 1 / bound
        if norm < limit:
            said = f"largest singular value {norm:.3g} < {limit:.3g}: sufficient for vanishing"
        elif radius < 1:
            said = (
                f"largest singular value {norm:.3g} ≥ {limit:.3g}: an explosion is possible, at first; spectral radius"
                f" {radius:.3g} < 1: sufficient for vanishing in the end, as far as the layer is linear"
            )
        else:
            said = (
                f"largest singular value {norm:.3g} and spectral radius {radius:.3g}: what an explosion needs, not"
                " enough to make one"
            )
        return f"{said}; measured gain {gain:.3g} per time step"


def recurrences(trace: Trace) -> tuple[Recurrence, ...]:
    """Every recurrent layer and direction of which a gradient through time was recorded, by depth."""
    table = _Table(trace)
    return tuple(found for group in _groups(trace) if (found := _recurrence(trace, table, group)) is not None)


@dataclass(frozen=True, slots=True)
class _Group:
    """The sites of one layer and direction; columns of the trace by quantity and name of the site without suffix."""

    module: str
    module_type: str
    suffix: str
    sites: dict[tuple[Quantity, str], int]

    def columns(self, quantity: Quantity, *, part: str = "", start: bool = False) -> dict[str, int]:
        """Columns of the states, by the state's name."""
        found = {}
        for (which, name), column in self.sites.items():
            state, begins, of = _read(name) if self.fused else (*_begins(name), "")
            if which is quantity and begins is start and of == part:
                found[state] = column
        return found

    @property
    def fused(self) -> bool:
        return bool(self.suffix)


def _read(name: str) -> tuple[str, bool, str]:
    """What "h0" or "c.carried" say: the state, whether it is that before the first step, and the part."""
    state, _, part = name.partition(".")
    return *_begins(state), part


def _begins(name: str) -> tuple[str, bool]:
    """What "h0" or "h0.1.0" say: the state, "h" or "h.1.0", and whether it is that before the first step."""
    return (name[0] + name[2:], True) if name[1:2] == "0" else (name, False)


def _groups(trace: Trace) -> Iterator[_Group]:
    """The recurrent layers of the trace, in the order of depth and registration."""
    groups: dict[tuple[str, str], _Group] = {}
    for quantity in (Quantity.STATE_GRAD, Quantity.STATE):
        for column in trace.columns(quantity):
            site = trace.sites[column]
            fused, loop = _FUSED.fullmatch(site.name), _LOOP.fullmatch(site.name)
            if fused is not None:
                suffix = fused["suffix"]
                name = fused["state"] + fused["start"] + (fused["part"] or "")
            elif loop is not None:
                suffix, name = "", site.name
            else:
                continue
            group = groups.setdefault((site.module, suffix), _Group(site.module, site.module_type, suffix, {}))
            group.sites[quantity, name] = column
    for column in trace.columns(Quantity.GATE):
        site = trace.sites[column]
        gate, _, suffix = site.name.partition("_")
        if (site.module, suffix) in groups:
            groups[site.module, suffix].sites[Quantity.GATE, gate] = column
    yield from groups.values()


class _Table:
    """Values per time of any site as (step, time), without looking at all rows for each."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        site = trace.times.site
        small = site.astype(np.uint16) if len(trace.sites) <= np.iinfo(np.uint16).max else site  # a quicker sort
        self._order = np.argsort(small, kind="stable")
        self._edges = np.searchsorted(site[self._order], np.arange(len(trace.sites) + 1))

    def rows(self, column: int) -> Ints:
        """Indices of the rows of one site."""
        return self._order[self._edges[column] : self._edges[column + 1]]

    def cells(self, column: int) -> tuple[Ints, Ints]:
        """Step and time of all that was observed of one site; time 0 where it was observed once in a step."""
        rows, times = self.rows(column), self._trace.times
        step, time = times.step[rows].astype(np.int64), times.time[rows].astype(np.int64)
        once = self._once(column, step)
        return np.concatenate([step, once]), np.concatenate([time, np.zeros_like(once)])

    def fill(self, column: int, stat: Statistic, length: int) -> Doubles:
        """One statistic, (step, time); NaN where not observed."""
        times, rows = self._trace.times, self.rows(column)
        step, time = times.step[rows], times.time[rows]
        values = np.full((len(self._trace.steps), length), np.nan)
        once = self._once(column, step)
        values[once, 0] = self._trace.statistics[stat][once, column]
        inside = time < length
        values[step[inside], time[inside]] = times.statistics[stat][rows[inside]]
        return values

    def _once(self, column: int, step: NDArray[np.integer]) -> Ints:
        """Steps in which the site was observed without rows per time."""
        seen = self._trace.observed(column)
        seen[step] = False
        return np.flatnonzero(seen)


@dataclass(frozen=True, slots=True)
class _Segments:
    """Where the sequences lie: step, first time and length of each, (segment,); and what stands there."""

    trace: Trace
    table: _Table
    step: Ints
    start: Ints
    window: Ints

    @property
    def length(self) -> int:
        """Times of the longest step."""
        return int((self.start + self.window).max())

    def read(self, column: int | None, stat: Statistic) -> Doubles:
        """A statistic of one site, (segment, position); NaN where not observed, and where a gradient is not finite."""
        k = np.arange(int(self.window.max()))
        if column is None:
            return np.full((len(self.step), len(k)), np.nan)
        values = self.table.fill(column, stat, self.length)
        if self.trace.sites[column].quantity is Quantity.STATE_GRAD:
            values[self.table.fill(column, Statistic.NONFINITE_COUNT, self.length) > 0] = np.nan
        inside = k < self.window[:, None]
        at = np.where(inside, self.start[:, None] + k, 0)
        return np.where(inside, values[self.step[:, None], at], np.nan)

    def at_start(self, column: int, stat: Statistic) -> Doubles:
        """A statistic of one site where each segment begins, (segment,)."""
        return np.asarray(self.table.fill(column, stat, self.length)[self.step, self.start])


def _segments(trace: Trace, table: _Table, group: _Group) -> _Segments:
    """One for each start of a sequence in a step in which a gradient was seen; at time 0 where no start was."""
    gradients, states = group.columns(Quantity.STATE_GRAD).values(), group.columns(Quantity.STATE).values()
    graded = {step for column in gradients for step in np.flatnonzero(trace.observed(column)).tolist()}
    step, time = (np.concatenate(parts) for parts in zip(*map(table.cells, [*gradients, *states]), strict=True))
    begins: dict[int, set[int]] = {s: {0} for s in graded}
    for column in group.columns(Quantity.STATE, start=True).values():
        for s, t in zip(*(part.tolist() for part in table.cells(column)), strict=True):
            if s in begins:
                begins[s].add(t)
    rows = []
    for s, last in zip(*_largest(step, time), strict=True):
        if s in graded:
            first = sorted(t for t in begins[s] if t <= last)
            rows += [(s, a, b - a) for a, b in zip(first, [*first[1:], last + 1], strict=True)]
    return _Segments(trace, table, *np.array(rows, dtype=np.int64).T)


def _largest(step: Ints, time: Ints) -> tuple[list[int], list[int]]:
    """The steps, ascending, and the last time in each."""
    which, at = np.unique(step, return_inverse=True)
    last = np.zeros(len(which), dtype=np.int64)
    np.maximum.at(last, at, time)
    return which.tolist(), last.tolist()


def _recurrence(trace: Trace, table: _Table, group: _Group) -> Recurrence | None:
    totals, parts = group.columns(Quantity.STATE_GRAD), group.columns(Quantity.STATE_GRAD, part="carried")
    if not any(trace.observed(column).any() for column in totals.values()):
        return None
    where = _segments(trace, table, group)
    reverse = group.suffix.endswith("_reverse")
    arriving, carried = _sizes(group, where, Statistic.RMS)
    forget = _forget(trace, group, where)
    mode = _mode(trace, group.module)
    arrived_norm, carried_norm = _sizes(group, where, Statistic.L2_NORM)
    gain = gain_between(carried_norm, arrived_norm, arriving, reverse)
    cell_gain: Doubles | None = None
    if "c" in parts:
        lost, whole = where.read(parts["c"], Statistic.L2_NORM), where.read(totals["c"], Statistic.L2_NORM)
        cell_gain = gain_between(lost, whole, where.read(totals["c"], Statistic.RMS), reverse)
    return Recurrence(
        module=group.module,
        module_type=group.module_type,
        suffix=group.suffix,
        mode=mode,
        reverse=reverse,
        columns=(*totals.values(), *parts.values()),
        step=where.step,
        start=where.start,
        window=where.window,
        cut=_cuts(group, where),
        arriving=arriving,
        carried=carried if group.fused else None,
        gain=gain,
        cell_gain=cell_gain,
        gain_per_step=geometric_mean(gain),
        lag=lag_of(_as_run(arriving, where.window, reverse)),
        forget=forget,
        time_constant=_time_constant(_mean(forget)) if forget is not None else None,
        slope=_mean(_slopes(mode, group.columns(Quantity.STATE).get("h"), where)),
        spectral_radius=_spectrum(trace, group, Statistic.SPECTRAL_RADIUS)[where.step],
        spectral_norm=_spectrum(trace, group, Statistic.SPECTRAL_NORM)[where.step],
    )


def _sizes(group: _Group, where: _Segments, stat: Statistic) -> tuple[Doubles, Doubles]:
    """What arrives at each position and what is carried there, as `stat`; of a loop twice the same."""
    totals = group.columns(Quantity.STATE_GRAD)
    if not group.fused:
        whole = _root_sum([where.read(column, stat) for column in totals.values()])
        return whole, whole
    carried, local = (group.columns(Quantity.STATE_GRAD, part=part) for part in ("carried", "local"))
    h, h_carried = where.read(totals.get("h"), stat), where.read(carried.get("h"), stat)
    if "c" not in carried:
        return h, h_carried
    c_carried = np.nan_to_num(where.read(carried["c"], stat))
    # h hands on no more to c than it has itself: what is beyond that, the loss hands to the final cell. A projected h
    # is smaller than c, and may hand on more.
    projected = where.read(totals.get("h"), Statistic.NUMEL) != where.read(totals.get("c"), Statistic.NUMEL)
    given = np.nan_to_num(np.fmax(where.read(local.get("c"), stat) - h, 0.0))
    return np.hypot(h, c_carried + np.where(projected, 0.0, given)), np.hypot(h_carried, c_carried)


def _root_sum(values: list[Doubles]) -> Doubles:
    """√Σx² over what was observed; NaN where nothing was."""
    stacked = np.stack(values)
    total = np.sqrt(np.nansum(stacked**2, axis=0)) if len(values) > 1 else stacked[0]
    return np.where(np.isnan(stacked).all(axis=0), np.nan, total)


def _after(values: Doubles, reverse: bool) -> Doubles:
    """What stands at the position from which gradients come; NaN where there is none."""
    nothing = np.full((len(values), 1), np.nan)
    return np.concatenate([nothing, values[:, :-1]] if reverse else [values[:, 1:], nothing], axis=1)


def gain_between(carried: Doubles, arriving: Doubles, rms: Doubles, reverse: bool) -> Doubles:
    """Of what is carried to what has arrived behind the link; NaN where that, of size `rms`, has no digits left."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = carried / _after(arriving, reverse)
    return np.where(_after(rms, reverse) > _NOTHING_LEFT, gain, np.nan)


def geometric_mean(gain: Doubles) -> Doubles:
    """Of each row's known values; NaN where there is none, 0 where one is."""
    known = ~np.isnan(gain)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(known, np.log(gain), 0.0)
        return np.where(known.any(axis=1), np.exp(logs.sum(axis=1) / known.sum(axis=1)), np.nan)


def _as_run(values: Doubles, window: Ints, reverse: bool) -> Doubles:
    if not reverse:
        return values
    at = window[:, None] - 1 - np.arange(values.shape[1])
    return np.where(at >= 0, np.take_along_axis(values, np.maximum(at, 0), axis=1), np.nan)


def _first_seen(run: Doubles) -> Ints:
    """Where each row begins to be observed; 0 where it never is."""
    return np.asarray((~np.isnan(run)).argmax(axis=1))


def lag_of(run: Doubles) -> Ints:
    """From the first position that was observed to the last that gets anything; positions in the order they run."""
    served = run > 0
    last = run.shape[1] - 1 - served[:, ::-1].argmax(axis=1)
    return np.where(served.any(axis=1), last - _first_seen(run), 0)


def _mean(values: Doubles) -> Doubles:
    """Of each row's known values; NaN where there is none."""
    seen = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, values, 0.0).sum(axis=1) / seen.sum(axis=1))


def _time_constant(forget: Doubles) -> Doubles:
    with np.errstate(divide="ignore"):
        constant = np.abs(1 / np.log(forget))  # of an open gate +inf, not −inf
    return np.asarray(constant)


def _forget(trace: Trace, group: _Group, where: _Segments) -> Doubles | None:
    column = group.sites.get((Quantity.GATE, _FORGET.get(_mode(trace, group.module), "forget")))
    return where.read(column, Statistic.MEAN) if column is not None else None


def _slopes(mode: str, column: int | None, where: _Segments) -> Doubles:
    """Mean φ′ at each position."""
    if mode == "RNN_TANH":
        return 1 - where.read(column, Statistic.RMS) ** 2
    return 1 - where.read(column if mode == "RNN_RELU" else None, Statistic.ZERO_FRACTION)


def _spectrum(trace: Trace, group: _Group, stat: Statistic) -> Doubles:
    """Of the recurrent matrix, or the largest of the gates', as last recorded. Shape (step,)."""
    columns = [c for (quantity, _), c in group.sites.items() if quantity in (Quantity.STATE, Quantity.GATE)]
    values = trace.statistics[stat][:, columns].astype(np.float64)
    largest = np.max(np.where(np.isnan(values), -np.inf, values), axis=1, initial=-np.inf)
    last = np.maximum.accumulate(np.where(largest > -np.inf, np.arange(len(largest)), -1))
    return np.where(last >= 0, largest[last], np.nan)


def _cuts(group: _Group, where: _Segments) -> NDArray[np.bool_]:
    """Whether each segment begins with a state from before, and none of its states with a gradient."""
    given = handed_on = np.zeros(len(where.step), dtype=bool)
    for column in group.columns(Quantity.STATE, start=True).values():
        given = given | (where.at_start(column, Statistic.RMS) > 0)
    for column in group.columns(Quantity.STATE_GRAD, start=True).values():
        handed_on = handed_on | ~np.isnan(where.at_start(column, Statistic.NUMEL))
    return np.asarray(given & ~handed_on)


def _mode(trace: Trace, module: str) -> str:
    known = trace.meta.get("recurrent")
    return str(known.get(module, "")) if isinstance(known, Mapping) else ""

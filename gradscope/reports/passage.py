"""The gradient's way through the sequences of a recurrent layer: what charts, figures and the terminal draw of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.records import Quantity, Statistic
from gradscope.recurrence import Recurrence, recurrences
from gradscope.trace import Doubles, Ints, Trace

Part: TypeAlias = Literal["all", "first", "last"]  # of a run: every recorded step, its first tenth, its last
PARTS: tuple[Part, ...] = ("all", "first", "last")

ONE_STATE, TWO_STATES = "∂L/∂h", "∂L/∂h with ∂L/∂c"
SHARE_OF_CUT_STEPS = 0.25  # the first window of each sequence is no cut, and there may be just two of them
FORGOTTEN = 1e-3  # what is left of a gradient at the end of the memory that figures mark


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passage:
    """One layer and direction of one module, over the times of a whole step: calls one after the other.

    Attributes:
        recurrence: What it means, by segment.
        name: The module, with layer and direction where it has several.
        steps: Numbers of the recorded steps. Shape (step,).
        rms: Of the gradient that arrives at each time, ∂L/∂h and with it the ∂L/∂c that is carried. Shape (step, time).
        local: The part from the loss or the layer above; None where the parts are not known.
        carried: The part from the next time of the sequence; None as above.
        nonfinite: Whether it had NaN or Inf. Shape (step, time).
        seen: Whether it was observed. Shape (step, time).
        cuts: Times at which, in many steps, a state came from before and no gradient went back: truncated BPTT.
    """

    recurrence: Recurrence
    name: str
    steps: Ints
    rms: Doubles
    local: Doubles | None
    carried: Doubles | None
    nonfinite: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    cuts: tuple[int, ...]

    @property
    def place(self) -> tuple[str, str]:
        """What it is called in another run of the same model."""
        return self.recurrence.module, self.recurrence.suffix

    @property
    def layer(self) -> str:
        """Layer and direction within the module; "" for a cell in a loop."""
        return self.recurrence.suffix.replace("_", " ")

    @property
    def times(self) -> int:
        """Positions of the longest sequence."""
        return int(self.rms.shape[1])

    @property
    def with_cell(self) -> bool:
        """Whether there is a second state, c."""
        return self.recurrence.mode == "LSTM"

    @property
    def symbol(self) -> str:
        """How what arrives is written."""
        return TWO_STATES if self.with_cell else ONE_STATE

    @property
    def lag(self) -> float:
        """How many positions the gradient could travel; the median of the segments in which it did."""
        known = ~np.isnan(self.recurrence.gain_per_step)
        return median(self.recurrence.lag[known].astype(np.float64))

    @property
    def forget(self) -> float:
        """How far the forget gate is open, of a GRU the update gate; NaN where there is none."""
        forget = self.recurrence.forget
        return float("nan") if forget is None else median(forget)

    @property
    def time_constant(self) -> float:
        """Positions to 1/e that this gate implies."""
        constant = self.recurrence.time_constant
        return float("nan") if constant is None else median(constant)

    @property
    def spectral_radius(self) -> float:
        """Of the recurrent matrix, as last recorded; NaN if never."""
        return _last(self.recurrence.spectral_radius)

    @property
    def spectral_norm(self) -> float:
        """Largest singular value of the recurrent matrix, as last recorded; NaN if never."""
        return _last(self.recurrence.spectral_norm)

    def gain(self, part: Part = "all") -> float:
        """Factor per position on the way back; the median of the segments."""
        return median(self.recurrence.gain_per_step[self._segments(part)])

    def memory(self, factor: float = FORGOTTEN, part: Part = "all") -> float:
        """Positions after which `factor` of the gradient is left; the median of the segments, inf if never."""
        return median(self.recurrence.memory(factor)[self._segments(part)])

    def _segments(self, part: Part) -> NDArray[np.bool_]:
        chosen = np.zeros(len(self.steps), dtype=bool)
        chosen[rows_of(len(self.steps), part)] = True
        return chosen[self.recurrence.step]


def passages(trace: Trace) -> list[Passage]:
    """One for each recurrent layer and direction whose gradient was recorded, from input to output."""
    found = recurrences(trace)
    several = {r.module for r in found if sum(other.module == r.module for other in found) > 1}
    return [_passage(trace, r, r.module in several) for r in found]


def _passage(trace: Trace, recurrence: Recurrence, several: bool) -> Passage:
    shape = len(trace.steps), int((recurrence.start + recurrence.window).max())
    local = f"h_{recurrence.suffix}.local"
    known = recurrence.suffix and trace.columns(Quantity.STATE_GRAD, recurrence.module, local)
    broken, seen = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for column in recurrence.columns:
        broken |= _fitted(trace, trace.sites[column].name, recurrence, Statistic.NONFINITE_COUNT, shape) > 0
        seen |= ~np.isnan(_fitted(trace, trace.sites[column].name, recurrence, Statistic.NUMEL, shape))
    return Passage(
        recurrence=recurrence,
        name=_name(recurrence, several),
        steps=trace.steps,
        rms=_over_the_step(recurrence.arriving, recurrence, shape),
        local=_fitted(trace, local, recurrence, Statistic.RMS, shape) if known else None,
        carried=None if recurrence.carried is None else _over_the_step(recurrence.carried, recurrence, shape),
        nonfinite=broken,
        seen=seen,
        cuts=_cuts(recurrence),
    )


def _fitted(trace: Trace, name: str, recurrence: Recurrence, stat: Statistic, shape: tuple[int, int]) -> Doubles:
    """One statistic of a state's gradient, (step, time)."""
    values = np.full(shape, np.nan)
    read = trace.by_time(recurrence.module, Quantity.STATE_GRAD, stat, name=name)[:, : shape[1]]
    values[:, : read.shape[1]] = read
    return values


def _over_the_step(values: Doubles, recurrence: Recurrence, shape: tuple[int, int]) -> Doubles:
    """(segment, position) as (step, time)."""
    whole = np.full(shape, np.nan)
    for row, step, start, window in zip(values, recurrence.step, recurrence.start, recurrence.window, strict=True):
        whole[step, start : start + window] = row[:window]
    return whole


def _cuts(recurrence: Recurrence) -> tuple[int, ...]:
    """Times of a step at which in many of the steps a window begins that was cut off."""
    times, count = np.unique(recurrence.start[recurrence.cut], return_counts=True)
    return tuple(times[count >= SHARE_OF_CUT_STEPS * len(np.unique(recurrence.step))].tolist())


def _name(recurrence: Recurrence, several: bool) -> str:
    module = recurrence.module or "(model)"
    return f"{module} {recurrence.suffix.replace('_', ' ')}" if several else module


def joined_symbols(symbols: Iterable[str]) -> str:
    """How several quantities are written on one axis."""
    distinct = list(dict.fromkeys(symbols))
    if set(distinct) == {ONE_STATE, TWO_STATES}:
        return "∂L/∂h (LSTM: with ∂L/∂c)"
    return " or ".join(distinct)


def median(values: Doubles) -> float:
    """Of those that are known; NaN if none is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _last(values: Doubles) -> float:
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else float("nan")


def rows_of(steps: int, part: Part) -> slice:
    """The recorded steps of a part of a run."""
    tenth = max(1, steps // 10)
    return slice(0, tenth) if part == "first" else slice(max(steps - tenth, 0) if part == "last" else 0, steps)


def column_medians(values: Doubles) -> Doubles:
    """Of the finite values of each column; NaN where there is none. Shape (column,)."""
    finite = np.isfinite(values)
    medians = np.full(values.shape[1], np.nan)
    for i in np.flatnonzero(finite.any(axis=0)):
        medians[i] = np.median(values[finite[:, i], i])
    return medians


def memory_words(memory: float, lag: float) -> str:
    """A memory as a person reads it: beyond what the sequence shows it is only said to be longer."""
    return f"{memory:.0f}" if memory <= lag else f">{lag:.0f}"

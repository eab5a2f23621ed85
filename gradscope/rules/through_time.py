"""What the two rules on gradients through time share: what they can judge, and what the recurrence is made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import NotJudged
from gradscope.flow import flow_of
from gradscope.loops import loops
from gradscope.records import Quantity, Site
from gradscope.recurrence import Recurrence, recurrences
from gradscope.rules.persistence import Persistence
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace

Bools = NDArray[np.bool_]

LEAST_LAG = 10  # time steps: over fewer, a gradient that halves at each is still within three decades
STEADY = 0.5  # share of the change in decades that the median gain makes up over the lag: one odd position is no slope
_AT_BOUNDS = 0.5  # mean slope of a tanh below which its states, not the weights, are what passes on little


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """A recurrence in which a fault lasts.

    Attributes:
        recurrence: Which.
        persistence: Over the recorded steps.
        rows: Its segments that show the fault.
        decades: What was judged, of each segment. Shape (segment,).
    """

    recurrence: Recurrence
    persistence: Persistence
    rows: Ints
    decades: Doubles

    @property
    def late(self) -> Ints:
        """The last quarter of the rows: how it has come to be."""
        return self.rows[-max(len(self.rows) // 4, 1) :]


def has_recurrence(trace: Trace) -> bool:
    """Whether the model has a recurrent layer or cell; also where the trace, of an earlier version, does not tell.

    Raises:
        NotJudged: It may have one, in a loop that was not seen to hand on what it makes.
    """
    if trace.meta.get("recurrent", True) or trace.columns(Quantity.STATE_GRAD) or loops(trace, ()):
        return True
    looped = _looped(trace)
    if looped is None or flow_of(trace) is not None:  # with a forward graph, a loop would have been seen
        return False
    raise NotJudged(
        f"{looped.module or 'the model'} runs many times in a step, but no module is handed back what it returned; if"
        " that is a recurrence, put one step of it into a module that takes the state and returns it"
    )


def _looped(trace: Trace) -> Site | None:
    """A module that runs so often in a step that it may be part of a recurrence; None if there is none."""
    for column in trace.columns(Quantity.OUTPUT_GRAD):
        times = trace.times.time[trace.times.site == column]
        if len(times) and times.max() >= LEAST_LAG:
            return trace.sites[column]
    return None


def judged_recurrences(trace: Trace) -> tuple[Recurrence, ...]:
    """Those in which a gradient could travel far enough.

    Raises:
        NotJudged: There is none.
    """
    found = recurrences(trace)
    found += loops(trace, dict.fromkeys(r.module for r in found))
    if not found:
        raise NotJudged("needs a recurrent layer with a gradient, the trace has none")
    longest = max(int(r.lag.max(initial=0)) for r in found)
    if longest < LEAST_LAG:
        cut = ", as its windows are cut" if any(r.cut.any() for r in found) else ""
        raise NotJudged(
            f"needs a gradient that can travel {LEAST_LAG} time steps, the longest here travels {longest}{cut}"
        )
    return tuple(r for r in found if r.lag.max(initial=0) >= LEAST_LAG)


def by_step(trace: Trace, recurrence: Recurrence, sick: Bools, known: Bools) -> tuple[Bools, Bools]:
    """From segments to recorded steps: sick if half of its known segments are. Each of shape (step,)."""
    steps = len(trace.steps)
    judged = np.bincount(recurrence.step[known], minlength=steps)
    bad = np.bincount(recurrence.step[known & sick], minlength=steps)
    return (bad > 0) & (2 * bad >= judged), judged > 0


def worst_of_each_module(found: list[Lasting]) -> Iterator[tuple[Lasting, list[Lasting]]]:
    """One for each module: its worst layer and direction, and all of them."""
    for module in dict.fromkeys(lasting.recurrence.module for lasting in found):
        group = [lasting for lasting in found if lasting.recurrence.module == module]
        yield max(group, key=lambda lasting: float(np.median(lasting.decades[lasting.late]))), group


def sites_of(trace: Trace, group: list[Lasting]) -> tuple[Site, ...]:
    """The gradients of the states of all of them."""
    return tuple(trace.sites[column] for lasting in group for column in lasting.recurrence.columns)


def with_others(group: list[Lasting]) -> str:
    """``, and so in 2 other layers or directions``; "" for one alone."""
    others = len(group) - 1
    return f"; likewise in {others} other layer{'s' * (others > 1)} or direction{'s' * (others > 1)}" if others else ""


def middle(values: Doubles, rows: Ints) -> float:
    """Median over `rows` of what is known; NaN where nothing is."""
    known = values[rows][~np.isnan(values[rows])]
    return float(np.median(known)) if len(known) else float("nan")


def gates(lasting: Lasting) -> tuple[float, float]:
    """Mean forget gate (of a GRU the update gate) and the time constant that it makes; NaN without gates."""
    recurrence, rows = lasting.recurrence, lasting.late
    if recurrence.forget is None or recurrence.time_constant is None:
        return float("nan"), float("nan")
    opened = recurrence.forget[rows]
    return float(np.nanmean(opened)), middle(recurrence.time_constant, rows)


def matrix(lasting: Lasting) -> tuple[float, float]:
    """Spectral radius and largest singular value of the recurrent matrix; NaN where not known."""
    recurrence = lasting.recurrence
    return middle(recurrence.spectral_radius, lasting.late), middle(recurrence.spectral_norm, lasting.late)


def is_plain(recurrence: Recurrence) -> bool:
    """Whether it is known to be an RNN without gates."""
    return recurrence.mode.startswith("RNN")


def is_saturated(lasting: Lasting) -> bool:
    """Whether the states of a tanh lie near its bounds."""
    return lasting.recurrence.mode == "RNN_TANH" and middle(lasting.recurrence.slope, lasting.late) < _AT_BOUNDS


def recurrent_weight(recurrence: Recurrence) -> str:
    """What the recurrent matrix is called in the model."""
    if not recurrence.mode:
        return "the recurrent matrix"
    return ".".join(
        part for part in (recurrence.module, "_".join(["weight_hh", recurrence.suffix]).rstrip("_")) if part
    )


def slope_clause(lasting: Lasting) -> str:
    """What the activation of a plain RNN lets through, as a clause; "" of others."""
    slope = middle(lasting.recurrence.slope, lasting.late)
    if np.isnan(slope):
        return ""
    if lasting.recurrence.mode == "RNN_RELU":
        return f"{slope:.0%} of the ReLU's units are active"
    return f"the mean slope of the tanh is {number(slope)}" + (
        ", since the states lie near its bounds" if is_saturated(lasting) else ""
    )

"""The gradient profile of a trace: by which factor each module changes the gradient that goes back through it."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from gradscope.records import Quantity, Statistic
from gradscope.recurrence import recurrences
from gradscope.trace import Doubles, Ints, Trace

_PER_TIME_STEP = " per time step"


class Known(NamedTuple):
    """A number in those steps in which it is known.

    Attributes:
        step: Indices of the trace's steps; one with several sequences is there as often. Shape (known,).
        value: Shape (known,).
    """

    step: Ints
    value: Doubles


def gains(traces: Iterable[Trace]) -> dict[str, float]:
    """log₁₀ of the gain of each module, in decades: 0 keeps the gradient's norm. The mean over `traces`.

    Of a recurrent layer also the gain per time step, under its label ("rnn l0 per time step"). A module without a
    gradient that is finite and not zero on both sides, as the first one where the data ask for none, has no gain.

    Formula:
        gain(module) = median over steps of log₁₀(‖∂L/∂x‖₂ / ‖∂L/∂y‖₂), x what it is given and y what it returns.
    """
    seen: dict[str, list[float]] = {}
    for trace in traces:
        for module, gain in _of_one(trace).items():
            seen.setdefault(module, []).append(gain)
    return {module: float(np.mean(values)) for module, values in seen.items()}


def module_of(key: str, modules: Collection[str]) -> str:
    """Which of `modules` a key of the profile speaks of; a recurrence's label names its layer and direction too."""
    label = key.removesuffix(_PER_TIME_STEP)
    return label if label in modules else module if (module := label.rpartition(" ")[0]) in modules else ""


def in_words(key: str) -> str:
    """``fc``, ``rnn l0 in each time step``."""
    label = key.removesuffix(_PER_TIME_STEP) or "the model"
    return f"{label} in each time step" if key.endswith(_PER_TIME_STEP) else label


def gains_by_step(trace: Trace) -> dict[str, Known]:
    """log₁₀ of the gain in each step, of modules and recurrent layers as `gains` names them, by name."""
    returned = _first_columns(trace, Quantity.OUTPUT_GRAD)
    given = _first_columns(trace, Quantity.INPUT_GRAD)
    found = {}
    for module in returned.keys() & given.keys():
        ratio = _logs(trace, given[module]) - _logs(trace, returned[module])
        steps = np.flatnonzero(~np.isnan(ratio))
        found[module] = Known(steps, ratio[steps])
    for recurrence in recurrences(trace):
        with np.errstate(divide="ignore", invalid="ignore"):
            per_step = np.log10(recurrence.gain_per_step)
        known = np.isfinite(per_step)
        found[f"{recurrence.label}{_PER_TIME_STEP}"] = Known(recurrence.step[known], per_step[known])
    return dict(sorted(found.items()))


def _of_one(trace: Trace) -> dict[str, float]:
    known = gains_by_step(trace).items()
    return {module: float(np.median(gain.value)) for module, gain in known if len(gain.value)}


def _first_columns(trace: Trace, quantity: Quantity) -> dict[str, int]:
    first: dict[str, int] = {}
    for column in trace.columns(quantity):
        first.setdefault(trace.sites[column].module, column)
    return first


def _logs(trace: Trace, column: int) -> Doubles:
    """log₁₀ of the norm in each step; NaN where it was not observed, is zero, or something of it is not finite."""
    norm = trace.statistics[Statistic.L2_NORM][:, column].astype(np.float64)
    broken = trace.statistics[Statistic.NONFINITE_COUNT][:, column] > 0
    return np.asarray(np.log10(np.where((norm > 0) & np.isfinite(norm) & ~broken, norm, np.nan)))

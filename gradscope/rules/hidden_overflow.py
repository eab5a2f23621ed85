"""Infinities of float16 that a division turns into zeros, so that nothing broken is ever seen: x / √Σx²."""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity, Statistic
from gradscope.rules.activations import ACTIVATIONS
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.sixteen_bits import LARGEST, is_half
from gradscope.trace import Trace

_MOST = 0.5  # share of elements that are zero
_SOME = 0.1  # or were so before
# in the names of classes whose output may be zero, or that square nothing
_OTHERS = ("ReLU", "Dropout", "Pool", "Threshold", "shrink", "Linear", "Conv", "Embedding", "LSTM", "GRU", "RNN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swallowed:
    """A module that returns nothing of large numbers.

    Attributes:
        column: Its output.
        given: The largest number that it was given.
        lasting: Since when.
    """

    column: int
    given: float
    lasting: Persistence


def hidden_overflow(trace: Trace) -> Swallowed | None:
    """The first module in float16 whose output is zero while the square of what it is given is out of range."""
    zeros, largest = trace.statistics[Statistic.ZERO_FRACTION], trace.statistics[Statistic.ABS_MAX]
    before = next(iter(trace.columns(Quantity.INPUT, "")), None)
    for column in trace.columns(Quantity.OUTPUT):
        site, given = trace.sites[column], before
        before = column
        # a weight in float32 makes the output float32
        if given is None or not (is_half(trace, site.module) or is_half(trace, trace.sites[given].module)):
            continue
        if site.module_type in ACTIVATIONS or any(word in site.module_type for word in _OTHERS):
            continue
        squares = largest[:, given].astype(np.float64) ** 2
        sick = (zeros[:, column] >= _MOST) & (zeros[:, given] <= _SOME) & (squares > LARGEST)
        lasting = persistence(sick, ~np.isnan(zeros[:, column]) & ~np.isnan(squares))
        if lasting is not None:
            return Swallowed(column=column, given=float(largest[lasting.rows, given].max()), lasting=lasting)
    return None

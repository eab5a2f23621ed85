"""Which steps are recorded. A schedule is any callable from a step's number to bool; these are the usual ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradscope.errors import UsageError

Schedule = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Every:
    """Every n-th step: 0, n, 2n and so on."""

    n: int

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise UsageError(f"`every={self.n!r}` must be a whole number of at least 1; 1 records every step.")

    def __call__(self, step: int) -> bool:
        return step % self.n == 0


@dataclass(frozen=True, slots=True)
class LogSpaced:
    """All of the first `dense` steps, then `per_decade` steps in each factor of ten: for long runs."""

    dense: int = 10
    per_decade: int = 20

    def __post_init__(self) -> None:
        if self.dense < 1 or self.per_decade < 1:
            raise UsageError(f"`{self!r}` must record at least one step; both numbers must be at least 1.")

    def __call__(self, step: int) -> bool:
        if step < self.dense:
            return True
        bucket = _log_bucket(step, self.per_decade)
        return bucket != _log_bucket(step - 1, self.per_decade)


def _log_bucket(step: int, per_decade: int) -> int:
    # the largest k with 10^(k / per_decade) <= step, in whole numbers, as floats err at the marks themselves
    power = step**per_decade
    k = int(per_decade * math.log10(step)) if step else 0
    while 10 ** (k + 1) <= power:
        k += 1
    while k and 10**k > power:
        k -= 1
    return k


def as_schedule(every: int | Schedule) -> Schedule:
    """`every` as a schedule: a number n means every n-th step.

    Raises:
        UsageError: `every` is neither a positive whole number nor callable.
    """
    return every if callable(every) else Every(every)

"""The gradient along the depth of two models side by side: one row of places that holds the layers of both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from gradscope.alignment import Alignment
from gradscope.findings import Json
from gradscope.records import Quantity, Statistic
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True, slots=True)
class Level:
    """What arrives at a layer.

    Attributes:
        module: Its name.
        rms: Of ∂L/∂y, the median over the steps; NaN where none has a finite one.
        nonfinite: Whether any step had NaN or Inf.
    """

    module: str
    rms: float
    nonfinite: bool

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {"module": self.module, "rms": self.rms, "nonfinite": self.nonfinite}


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of A, of B, or of both.

    Attributes:
        a: In A; None where A has no such layer, or runs it elsewhere in its order.
        b: In B, likewise.
    """

    a: Level | None
    b: Level | None

    @property
    def name(self) -> str:
        """The layer's, in A where it is there."""
        return self.a.module if self.a is not None else self.b.module if self.b is not None else ""

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {
            "a": None if self.a is None else self.a.to_dict(),
            "b": None if self.b is None else self.b.to_dict(),
        }


def places_of(a: Trace, b: Trace, alignment: Alignment, first: int, last: int) -> tuple[Place, ...]:
    """From the input to the output; medians over the steps from `first` to `last`."""
    in_a, in_b = _levels(a, first, last), {alignment.in_a(m): level for m, level in _levels(b, first, last).items()}
    return tuple(_merged(in_a, in_b))


def _merged(in_a: Mapping[str, Level], in_b: Mapping[str, Level]) -> Iterator[Place]:
    names_a, names_b = list(in_a), list(in_b)
    for _, i1, i2, j1, j2 in SequenceMatcher(a=names_a, b=names_b, autojunk=False).get_opcodes():
        only_a, only_b = names_a[i1:i2], names_b[j1:j2]
        if only_a == only_b:
            yield from (Place(in_a[name], in_b[name]) for name in only_a)
            continue
        yield from (Place(in_a[name], None) for name in only_a)
        yield from (Place(None, in_b[name]) for name in only_b)


def _levels(trace: Trace, first: int, last: int) -> dict[str, Level]:
    sites, rms = trace.by_depth(Quantity.OUTPUT_GRAD, Statistic.RMS)
    _, counts = trace.by_depth(Quantity.OUTPUT_GRAD, Statistic.NONFINITE_COUNT)
    if len(sites) != counts.shape[1]:  # of a site that is never finite only one of the two is known
        columns = [trace.column(site.module, site.quantity, site.name) for site in sites]
        counts = trace.statistics[Statistic.NONFINITE_COUNT][:, columns]
    rows = (trace.steps >= first) & (trace.steps <= last)
    found: dict[str, Level] = {}
    for column, site in enumerate(sites):
        if site.module not in found:
            middle = _median(rms[rows, column].astype(np.float64))
            found[site.module] = Level(site.module, middle, bool((counts[rows, column] > 0).any()))
    return found


def _median(values: Doubles) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")

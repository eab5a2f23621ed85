"""Who is given whose output, as a recording has seen it: the edges of the graph that `gradscope.flow` makes of a trace.

A point is a tensor that a module was given or has returned, in one of its calls. A link says that what a module was
given was computed from another point, and by which functions; their names are those of autograd's nodes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from gradscope.findings import Json

INPUT = "(input)"  # in place of a module: what no gradient goes back to
OUTPUT = "(output)"  # what the model returns
ROWS = " of rows"  # ends the name of a matrix product that adds up the rows of what leads to it
_GATHERING = ("Spmm", "Sparse", "IndexAdd", "Scatter")  # begin the names of nodes by which rows are added up
MOST_CALLS = 64  # of one module in one step: the last of them stands for all that follow, as in a loop over time


def adds_up_rows(name: str) -> bool:
    """Whether a function between two points adds up the rows of what leads to it: a product, or a gathering."""
    return name.endswith(ROWS) or name.startswith(_GATHERING)


class Side(StrEnum):
    """Which end of a module a tensor is at."""

    GIVEN = "given"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class End:
    """A place at which tensors were seen.

    Attributes:
        module: Name of the module, or of the call of a function.
        side: Whether it was given the tensor or has returned it.
        name: Path in a nest of tensors, as in a site's name.
    """

    module: str
    side: Side
    name: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One way from a point to the next.

    Attributes:
        source: Where the tensor comes from.
        target: Who is given it.
        through: Functions between, from the source to the target; none where it is the very tensor.
    """

    source: End
    target: End
    through: tuple[str, ...] = ()


@dataclass(slots=True)
class Links:
    """All links of a recording, and in which calls of their modules they were seen.

    Attributes:
        calls: For each link, pairs: number of the source's call within the step, and of the target's.
    """

    calls: dict[Link, set[tuple[int, int]]]

    def __init__(self) -> None:
        self.calls = {}

    def add(self, link: Link, source_call: int, target_call: int) -> None:
        """The link was seen in these calls."""
        self.calls.setdefault(link, set()).add((source_call, target_call))

    def __iter__(self) -> Iterator[tuple[Link, tuple[int, int]]]:
        return ((link, pair) for link, pairs in self.calls.items() for pair in sorted(pairs))

    def __bool__(self) -> bool:
        return bool(self.calls)

    def to_list(self) -> list[Json]:
        """As a trace holds them."""
        return [
            {
                "from": _listed(link.source),
                "to": _listed(link.target),
                "through": [*link.through],
                "calls": [[one, other] for one, other in sorted(pairs)],
            }
            for link, pairs in self.calls.items()
        ]

    @classmethod
    def of(cls, meta: Mapping[str, Json]) -> Self:
        """Those that a trace holds."""
        found = cls()
        listed = meta.get("flow")
        for one in listed if isinstance(listed, list) else []:
            if not isinstance(one, Mapping):
                continue
            source, target, through, calls = (one.get(key) for key in ("from", "to", "through", "calls"))
            if isinstance(source, list) and isinstance(target, list) and isinstance(through, list):
                link = Link(_end(source), _end(target), tuple(map(str, through)))
                for pair in calls if isinstance(calls, list) else []:
                    if isinstance(pair, list) and len(pair) == 2:
                        found.add(link, int(str(pair[0])), int(str(pair[1])))
        return found


def _listed(end: End) -> list[Json]:
    return [end.module, end.side.value, end.name]


def _end(listed: list[Json]) -> End:
    module, side, name = map(str, listed)
    return End(module, Side(side), name)

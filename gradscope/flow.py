"""The graph of a model's forward pass, as a trace holds it: which module feeds which, where a path leads around.

Vertices are what a module was given and what it has returned, in each of its calls: a module that is used in several
places, such as one `self.relu`, is several.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from gradscope.links import INPUT, OUTPUT, End, Links, Side
from gradscope.once import once

if TYPE_CHECKING:
    from gradscope.trace import Trace


@dataclass(frozen=True, slots=True, order=True)
class Vertex:
    """What a module was given, or what it has returned, in one call.

    Attributes:
        module: Its name; `INPUT` and `OUTPUT` are the ends of the model.
        call: Number of the call within a step.
        side: Which of the two.
        output: Of `OUTPUT` alone: path of the value in what the model returns.
    """

    module: str
    call: int
    side: Side
    output: str = ""

    @property
    def is_module(self) -> bool:
        """Whether it is neither end of the model."""
        return self.module not in (INPUT, OUTPUT)


Edges: TypeAlias = Mapping[Vertex, tuple[Vertex, ...]]


class Flow:
    """Who feeds whom. Made by `flow_of`.

    Attributes:
        through: The functions between two vertices, for each edge that is no module.
        after: What each vertex leads to.
        before: What leads to each vertex.
    """

    def __init__(self, links: Links) -> None:
        self.through: dict[tuple[Vertex, Vertex], tuple[str, ...]] = {}
        after: dict[Vertex, dict[Vertex, None]] = {}
        for link, (one, other) in links:
            pair = _vertex(link.source, one), _vertex(link.target, other)
            if pair[0] == pair[1]:  # one tensor as query, key and value
                continue
            self.through.setdefault(pair, link.through)
            for vertex in pair:
                if vertex.is_module:  # what it was given leads to what it returns
                    given, returned = (Vertex(vertex.module, vertex.call, side) for side in Side)
                    after.setdefault(given, {}).setdefault(returned)
            after.setdefault(pair[0], {}).setdefault(pair[1])
        before: dict[Vertex, dict[Vertex, None]] = {}
        for vertex, following in after.items():
            for one_after in following:
                before.setdefault(one_after, {}).setdefault(vertex)
        self.after: Edges = {vertex: tuple(following) for vertex, following in after.items()}
        self.before: Edges = {vertex: tuple(leading) for vertex, leading in before.items()}
        self._calls: dict[str, list[Vertex]] = {}
        self._feeds: dict[str, tuple[str, ...]] = {}  # in a deep residual net one layer is fed by hundreds
        for vertex in dict.fromkeys([*after, *before]):
            if vertex.is_module and vertex.side is Side.GIVEN:
                self._calls.setdefault(vertex.module, []).append(vertex)

    @property
    def modules(self) -> tuple[str, ...]:
        """All that were seen, in the order in which they first ran."""
        return tuple(self._calls)

    def feeds(self, module: str) -> tuple[str, ...]:
        """The modules that take part in what `module` is given, with no module between."""
        if module not in self._feeds:
            self._feeds[module] = self._feeding(module)
        return self._feeds[module]

    def _feeding(self, module: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        waiting = deque(leading for vertex in self.given(module) for leading in self.before.get(vertex, ()))
        seen = set(waiting)
        while waiting:
            vertex = waiting.popleft()
            if vertex.is_module and vertex.side is Side.RETURNED:
                found.setdefault(vertex.module)
            for leading in self.before.get(vertex, ()):
                if leading not in seen and not _is_inside(vertex, leading):
                    seen.add(leading)
                    waiting.append(leading)
        return tuple(found)

    def is_before(self, module: str, later: str) -> bool:
        """Whether what `module` returns reaches `later`, in one pass."""
        reach, bits = self._reach
        wanted = sum(bits[vertex] for vertex in self.given(later))
        return any(reach[vertex] & wanted for vertex in self.returned(module) if vertex in reach)

    @cached_property
    def backbone(self) -> tuple[str, ...]:
        """The modules, in order, without which nothing gets from the input to the output.

        The outputs are those that no other output is computed from in turn, as hidden states are that are returned too.
        """
        return tuple(dict.fromkeys(v.module for v in self.spine if v.is_module and v.side is Side.RETURNED))

    @cached_property
    def spine(self) -> tuple[Vertex, ...]:
        """The vertices through which every path from the input to the output goes, in order.

        Where one step has several forward passes, only those of the first, of the modules that are there in all.
        """
        spines = [self._spine_of(part) for part in self._passes]
        spines = [spine for spine in spines if spine]
        if not spines:
            return ()
        shared = set.intersection(*({vertex.module for vertex in spine} for spine in spines))
        return tuple(vertex for vertex in spines[0] if vertex.module in shared)

    def spine_to(self, vertex: Vertex) -> list[Vertex]:
        """The vertices through which every path from the input to this one goes, in order."""
        behind = {v for v in reached([vertex], self.before) if v.module != INPUT} | {vertex}
        return on_every_path(behind, self.after, self._entries(behind), [vertex])

    def spine_from(self, vertex: Vertex, later: Vertex) -> list[Vertex]:
        """The vertices through which every way from the one to the other goes, both with them, in order."""
        between = reached([vertex], self.after, later) & reached([later], self.before)
        return on_every_path(between | {vertex, later}, self.after, [vertex], [later])

    def entries_before(self, vertex: Vertex) -> list[Vertex]:
        """What is given to the modules that are the first on a way to `vertex`, in the order in which they ran."""
        places = {module: place for place, module in enumerate(self.modules)}
        found = [v for v in self._entries(reached([vertex], self.before)) if v.is_module]
        return sorted(found, key=lambda v: (places.get(v.module, -1), v))

    @property
    def ends(self) -> list[Vertex]:
        """What modules return that goes to the output with no module between, the last that ran first."""
        leaving = [v for v in self.after if any(following.module == OUTPUT for following in self.after[v])]
        places = {module: place for place, module in enumerate(self.modules)}
        return sorted((v for v in leaving if v.is_module), key=lambda v: -places.get(v.module, -1))

    def given(self, module: str) -> list[Vertex]:
        """What `module` was given, for each call."""
        return self._calls.get(module, [])

    def returned(self, module: str) -> list[Vertex]:
        """What `module` has returned, for each call."""
        return [Vertex(v.module, v.call, Side.RETURNED) for v in self.given(module)]

    def descendants(self, start: Iterable[Vertex]) -> set[Vertex]:
        """All that can be reached from `start`; `start` itself only by a loop."""
        return reached(start, self.after)

    def parts_between(self, vertex: Vertex, later: Vertex) -> list[set[Vertex]]:
        """What lies on the ways from `vertex` to `later`, apart from these: each part hangs together by itself."""
        inside = reached([vertex], self.after, later) & reached([later], self.before, vertex)
        return self._connected(inside - {vertex, later})

    def narrows(self, part: set[Vertex]) -> list[Vertex]:
        """The vertices of a part through which every way in it goes, in order."""
        entries = [v for v in part if not part.issuperset(self.before.get(v, ()))]
        exits = [v for v in part if not part.issuperset(self.after.get(v, ()))]
        return on_every_path(part, self.after, entries, exits)

    def tensor_of(self, given: Vertex) -> Vertex:
        """The vertex at which the very tensor was first seen that is given there, or from whose elements it is made."""
        at, seen = given, {given}
        while len(leading := self.before.get(at, ())) == 1 and leading[0] not in seen and leading[0].is_module:
            at = leading[0]
            seen.add(at)
            if at.side is Side.RETURNED:
                break
        return at

    @cached_property
    def _reach(self) -> tuple[dict[Vertex, int], dict[Vertex, int]]:
        """For each vertex what can be reached from it, as the sum of bits, and the bit of each.

        Rules ask it of every pair of modules: one walk for each question is too slow in a net of hundreds of layers.
        """
        vertices = list(dict.fromkeys([*self.after, *self.before]))
        bits = {vertex: 1 << place for place, vertex in enumerate(vertices)}
        order = topological(set(vertices), self.after)[::-1]
        order += set(vertices).difference(order)  # on loops, or behind them
        reach, changed = dict.fromkeys(vertices, 0), True
        while changed:  # once without loops, and once more to see that it is done
            changed = False
            for vertex in order:
                found = reach[vertex]
                for following in self.after.get(vertex, ()):
                    found |= bits[following] | reach[following]
                changed |= found != reach[vertex]
                reach[vertex] = found
        return reach, bits

    @cached_property
    def _passes(self) -> list[set[Vertex]]:
        """The vertices of each forward pass: what hangs together."""
        found = self._connected({v for v in [*self.after, *self.before] if v.module != INPUT})
        return sorted(found, key=lambda part: min(vertex.call for vertex in part))

    def _connected(self, vertices: set[Vertex]) -> list[set[Vertex]]:
        left, found = dict.fromkeys(sorted(vertices)), []
        while left:
            part, waiting = set[Vertex](), [next(iter(left))]
            while waiting:
                vertex = waiting.pop()
                if vertex in left:
                    del left[vertex]
                    part.add(vertex)
                    waiting += [*self.after.get(vertex, ()), *self.before.get(vertex, ())]
            found.append(part)
        return found

    def _spine_of(self, part: set[Vertex]) -> list[Vertex]:
        exits = self._exits(part)
        entries = self._entries(part)
        useful = (reached(exits, self.before) | set(exits)) & (reached(entries, self.after) | set(entries))
        return on_every_path(useful, self.after, entries, exits)

    def _entries(self, part: Iterable[Vertex]) -> list[Vertex]:
        return [v for v in part if all(leading.module == INPUT for leading in self.before.get(v, ()))]

    def _exits(self, part: set[Vertex]) -> list[Vertex]:
        """What the model returns last; where that was not seen, what leads nowhere."""
        outputs = [v for v in part if v.module == OUTPUT]
        if not outputs:
            return [v for v in part if not any(following in part for following in self.after.get(v, ()))]
        sources = {v: set(self.before.get(v, ())) for v in outputs}
        behind = {v: reached(found, self.before) for v, found in sources.items()}
        return [
            v
            for v in outputs
            if not any(sources[v] <= behind[other] and not sources[other] <= behind[v] for other in outputs)
        ]


@once
def flow_of(trace: "Trace") -> Flow | None:
    """The forward pass of the model that was recorded; None where the recording has not seen it."""
    links = Links.of(trace.meta)
    return Flow(links) if links else None


def _vertex(end: End, call: int) -> Vertex:
    return Vertex(end.module, call, end.side, end.name if end.module == OUTPUT else "")


def _is_inside(vertex: Vertex, leading: Vertex) -> bool:
    """Whether the edge between them is a module."""
    return (vertex.module, vertex.call) == (leading.module, leading.call) and vertex.side is not leading.side


def reached(start: Iterable[Vertex], edges: Edges, without: Vertex | None = None) -> set[Vertex]:
    """All that `start` leads to along `edges`, not over `without`."""
    found: set[Vertex] = set()
    waiting = list(start)
    while waiting:
        for following in edges.get(waiting.pop(), ()):
            if following not in found and following != without:
                found.add(following)
                waiting.append(following)
    return found


def on_every_path(
    vertices: set[Vertex], after: Edges, entries: Iterable[Vertex], exits: Iterable[Vertex]
) -> list[Vertex]:
    """Those of `vertices` that every path from an entry to an exit goes through, in order.

    In a topological order no edge leads over such a vertex.
    """
    order, ends = topological(vertices, after), set(exits)
    at = {vertex: place for place, vertex in enumerate(order)}
    reach = max((at[v] for v in entries if v in at), default=-1)  # until the last entry there are ways around
    found = []
    for place, vertex in enumerate(order):
        if reach <= place:
            found.append(vertex)
        farthest = max((at[v] for v in after.get(vertex, ()) if at.get(v, -1) > place), default=place)
        reach = max(reach, len(order) if vertex in ends and place < len(order) - 1 else farthest)
    return found


def topological(vertices: set[Vertex], after: Edges) -> list[Vertex]:
    """`vertices` in an order in which each comes before what it leads to; what lies on a loop is left out."""
    count = dict.fromkeys(sorted(vertices), 0)
    for vertex in vertices:
        for following in after.get(vertex, ()):
            if following in count:
                count[following] += 1
    ready = deque(vertex for vertex, leading in count.items() if not leading)
    order = []
    while ready:
        vertex = ready.popleft()
        order.append(vertex)
        for following in after.get(vertex, ()):
            if following in count:
                count[following] -= 1
                if not count[following]:
                    ready.append(following)
    return order

"""Along which layers a slope is looked for: one after the other on a path, never across parallel branches.

Between an entry of the model and an exit, the tensors that every path goes through make a chain: in a plain net each
layer's output, in a residual net the stream after each join, and neither keys nor queries, whose gradients add up to
that of what both are given. Where the forward graph was not recorded, the order of execution has to do.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import pairwise

from gradscope.flow import Edges, Flow, Vertex, flow_of, on_every_path, reached, topological
from gradscope.links import INPUT, Side
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.activations import ACTIVATIONS
from gradscope.rules.gain import LEAST_LAYERS
from gradscope.rules.layers import Layer, Place, Profile, learned_layers, logarithms, profile_of, size_of
from gradscope.trace import Trace

_MOST = 8  # ends of the model from which chains are looked for, beside the one through all of it


def gradient_profiles(trace: Trace) -> tuple[Profile, ...]:
    """log₁₀ ‖∂L/∂y‖₂ along each chain: of every layer with a weight, and of every tensor that joins branches."""
    flow = flow_of(trace)
    if flow is None:
        return _long([profile_of(trace, Quantity.OUTPUT_GRAD, Statistic.L2_NORM)])
    layers = _places(trace)
    returned, given = (_first_columns(trace, q) for q in (Quantity.OUTPUT_GRAD, Quantity.INPUT_GRAD))
    found = []
    for chain in chains(flow, list(layers)):
        places: dict[int, Place] = {}
        for before, vertex in pairwise([None, *chain]):
            assert vertex is not None  # only the first of all is
            if vertex.side is Side.RETURNED and vertex.module in layers and vertex.module in returned:
                places.setdefault(returned[vertex.module], layers[vertex.module])
            elif vertex.side is Side.GIVEN and vertex.module in given and flow.tensor_of(vertex) == vertex:
                column = given[vertex.module]
                places.setdefault(column, _join(trace.sites[column], closes=_parted(flow, before, vertex)))
        found.append(_profile(trace, places, Statistic.L2_NORM))
    return _long(found)


def _join(site: Site, *, closes: bool) -> Place:
    return Place(module=site.module, module_type=site.module_type, depth=site.depth, closes=closes)


def _parted(flow: Flow, before: Vertex | None, join: Vertex) -> bool:
    """Whether the paths that join there have parted behind the place before; so it is of the first on a chain."""
    leading = flow.before.get(join, ())
    if before is None:
        return len(leading) > 1
    inside = reached([before], flow.after, join) | {before}
    return sum(one in inside for one in leading) > 1


def spread_profiles(trace: Trace) -> tuple[Profile, ...]:
    """log₁₀ std(y) of every layer with a weight along each chain, from join to join.

    What a branch adds may be as small as it likes: how large the sum is, no layer's output tells.
    """
    flow = flow_of(trace)
    if flow is None:
        return spread_in_order(trace)
    layers = _places(trace)
    columns = _first_columns(trace, Quantity.OUTPUT)
    found = []
    for chain in chains(flow, list(layers)):
        places: dict[int, Place] = {}
        for vertex in chain:
            if vertex.side is Side.GIVEN and len(flow.before.get(vertex, ())) > 1:
                found.append(_profile(trace, places, Statistic.STD))
                places = {}
            elif vertex.side is Side.RETURNED and vertex.module in layers and vertex.module in columns:
                places.setdefault(columns[vertex.module], layers[vertex.module])
        found.append(_profile(trace, places, Statistic.STD))
    return _long(found)


def spread_in_order(trace: Trace, stat: Statistic = Statistic.STD) -> tuple[Profile, ...]:
    """log₁₀ of `stat` of what each layer with a weight returns, in the order in which they run."""
    return _long([profile_of(trace, Quantity.OUTPUT, stat)])


def _places(trace: Trace) -> dict[str, Place]:
    """The layers with a weight.

    Where the weights are no modules' but the model's own, `x @ self.w1`, the activation functions that are called
    between them stand for the layers: the first for the first weight, and so on, if there are as many.
    """
    layers: dict[str, Place] = {layer.module: layer for layer in learned_layers(trace)}
    matrices = _matrices(trace)
    if not len(layers) < LEAST_LAYERS <= len(matrices):
        return layers
    calls = [trace.sites[c] for c in trace.columns(Quantity.OUTPUT)]
    calls = [site for site in calls if "#" in site.module and site.module_type in ACTIVATIONS]
    each = matrices if len(matrices) - len(calls) in (0, 1) else []
    for number, site in enumerate(calls):
        place = Place(module=site.module, module_type=site.module_type, depth=site.depth)
        if each:
            place = Layer(
                module=site.module,
                module_type=site.module_type,
                depth=site.depth,
                weight=each[number],
                bias=None,
                activation=site.module_type,
            )
        layers[site.module] = place
    return layers


def _matrices(trace: Trace) -> list[int]:
    """Columns of all weights of two dimensions or more, in the order in which the model has them."""
    shapes = trace.meta.get("shapes")
    if not isinstance(shapes, Mapping):
        return []
    sites = {c: trace.sites[c] for c in trace.columns(Quantity.WEIGHT)}
    columns = {f"{site.module}.{site.name}".lstrip("."): c for c, site in sites.items()}
    return [columns[n] for n, shape in shapes.items() if n in columns and isinstance(shape, list) and len(shape) > 1]


def _long(profiles: Iterable[Profile]) -> tuple[Profile, ...]:
    """Those along which a slope can be told."""
    return tuple(profile for profile in profiles if len(profile.layers) >= LEAST_LAYERS)


def _first_columns(trace: Trace, quantity: Quantity) -> dict[str, int]:
    """For each module its first site of `quantity`, of those that have more than one element."""
    found: dict[str, int] = {}
    for column in trace.columns(quantity):
        if size_of(trace, column) > 1:
            found.setdefault(trace.sites[column].module, column)
    return found


def _profile(trace: Trace, places: dict[int, Place], stat: Statistic) -> Profile:
    columns = tuple(places)
    return Profile(columns=columns, layers=tuple(places.values()), values=logarithms(trace, columns, stat))


def chains(flow: Flow, layers: Sequence[str]) -> list[list[Vertex]]:
    """The chain through the whole model, and those from its other entries and to its other exits, by layers."""
    found = [list(flow.spine)]
    covered = {vertex.module for vertex in flow.spine}
    wanted = set(layers)
    for onwards, backwards in ((flow.after, flow.before), (flow.before, flow.after)):
        ends = []
        for module in layers:
            calls = flow.given(module) if module not in covered else []
            if calls and not _leads_to(calls[0], backwards, wanted - {module}):
                ends.append(Vertex(module, calls[0].call, Side.RETURNED))
        for end in ends[:_MOST]:
            chain = _every_path(end, onwards)
            found.append(chain if onwards is flow.after else chain[::-1])
            covered |= {vertex.module for vertex in chain}
    return found


def _leads_to(start: Vertex, edges: Edges, modules: Set[str]) -> bool:
    """Whether one of `modules` is reached; most are near."""
    waiting, seen = deque([start]), {start}
    while waiting:
        for vertex in edges.get(waiting.popleft(), ()):
            if vertex.module in modules:
                return True
            if vertex not in seen:
                seen.add(vertex)
                waiting.append(vertex)
    return False


def _every_path(start: Vertex, onwards: Edges) -> list[Vertex]:
    """The vertices that every path from `start` goes through, in order; none where the paths come round again."""
    found = {v for v in reached([start], onwards) | {start} if v.module != INPUT}
    if len(topological(found, onwards)) < len(found):
        return []
    exits = [v for v in found if found.isdisjoint(onwards.get(v, ()))]
    return on_every_path(found, onwards, [start], exits)

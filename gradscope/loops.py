"""Recurrences that are written out: a layer whose output comes back as its own input, with no cell around it.

    for t in range(T):
        h = torch.tanh(self.drive(x[:, t]) + self.state(h))        # `state` is given what it has made before

What such a layer was given in its call t + 1 is the state after t, and the gradient there is ∂L/∂h_t, as of a cell in a
loop; what the loss adds at each position cannot be told from what is carried, unless only the last state is read.

    for t in range(T):
        h = torch.tanh(x[:, t] @ self.u + h @ self.w)              # no layer: the tanh is given what it made
        h = self.a * h + self.drive(x[:, t])                       # …or nothing comes back: the sum goes on and on

Where the state goes through bare parameters, the recurrence is that of the module whose parameters they are, and the
gradient of what it computes in each call stands for the state's: of the activation, or of what is added to a sum that
takes the more functions to get to its end the earlier the call.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from gradscope.flow import Flow, Vertex, flow_of, reached
from gradscope.links import Side
from gradscope.records import Quantity, Statistic
from gradscope.recurrence import Recurrence, gain_between, geometric_mean, lag_of
from gradscope.trace import Doubles, Trace

_LEAST_CALLS = 10  # of what stands for a state: one activation may serve several layers
_CARRIED = 8  # functions by which the way of the first call to the sum's end is longer than that of the last
_PARTS = ("Select", "Unbind", "Slice", "Split", "Index", "Gather")  # functions that take a part of a tensor


def loops(trace: Trace, known: Iterable[str]) -> tuple[Recurrence, ...]:
    """Every layer that is in a loop of its own, by depth; none inside of the cells `known`, or that runs with them.

    And every module that carries a state through bare parameters, unless there is another loop in it.
    """
    flow, cells = flow_of(trace), tuple(known)
    if flow is None:
        return ()
    weighted = frozenset(trace.sites[c].module for c in trace.columns(Quantity.WEIGHT))
    found = []
    for column in trace.columns(Quantity.INPUT_GRAD):
        site = trace.sites[column]
        inside = any(site.module.startswith(f"{cell}.") or site.module == cell or not cell for cell in cells)
        if site.module not in weighted or inside or not _comes_back(flow, site.module):
            continue
        if not any(flow.is_before(cell, site.module) and flow.is_before(site.module, cell) for cell in cells):
            recurrence = _recurrence(trace, flow, column)
            found += [recurrence] if recurrence is not None else []
    return (*found, *_bare(trace, flow, weighted, [*cells, *(one.module for one in found)]))


def _bare(trace: Trace, flow: Flow, weighted: frozenset[str], known: list[str]) -> Iterator[Recurrence]:
    """One for each module that carries a state through bare parameters, and that none of `known` is in or around."""
    found: dict[str, list[Recurrence]] = {}
    for column in trace.columns(Quantity.OUTPUT_GRAD):
        site = trace.sites[column]
        owner = site.module.rpartition(".")[0]
        if any(_is_in(one, owner) or _is_in(owner, one) for one in known) or not _carries(flow, site.module, weighted):
            continue
        recurrence = _recurrence(trace, flow, column, owner)
        if recurrence is not None:
            found.setdefault(owner, []).append(recurrence)
    for owner, states in found.items():
        if not any(other != owner and _is_in(other, owner) for other in found):
            yield max(states, key=lambda one: float(np.nanmedian(one.arriving)))  # gates get but a part of it


def _is_in(module: str, owner: str) -> bool:
    return not owner or module == owner or module.startswith(f"{owner}.")


def _carries(flow: Flow, module: str, weighted: frozenset[str]) -> bool:
    """Whether what `module` returns is carried from call to call, and no layer carries it."""
    if len(flow.given(module)) < _LEAST_CALLS:
        return False
    return (module not in weighted and _returns_by_itself(flow, module, weighted)) or _adds_up(flow, module)


def _returns_by_itself(flow: Flow, module: str, weighted: frozenset[str]) -> bool:
    """Whether what it returns comes back in the next call over nothing but what has no weight and runs as often."""
    calls = flow.given(module)
    waiting, seen = flow.returned(module)[:1], set(flow.returned(module)[:1])
    while waiting:
        for vertex in flow.after.get(waiting.pop(), ()):
            if vertex == calls[1]:
                return True
            runs_along = vertex.is_module and len(flow.given(vertex.module)) >= len(calls) - 1
            if vertex not in seen and runs_along and vertex.module not in weighted:
                seen.add(vertex)
                waiting.append(vertex)
    return False


def _adds_up(flow: Flow, module: str) -> bool:
    """Whether all its calls lead to one place, by the more functions the earlier the call is."""
    returned = flow.returned(module)
    for end in flow.after.get(returned[0], ()):
        ways = [flow.through.get((vertex, end)) for vertex in returned]
        if end.side is Side.GIVEN and all(way is not None for way in ways):
            lengths = [len(way) for way in ways if way is not None]
            if lengths[0] - lengths[-1] >= _CARRIED and (np.diff(lengths) <= 0).all():
                return True
    return False


def _comes_back(flow: Flow, module: str) -> bool:
    """Whether what `module` returns in its first call reaches it in a later one."""
    calls = flow.given(module)
    return len(calls) > 1 and not flow.descendants(flow.returned(module)[:1]).isdisjoint(calls[1:])


def _only_the_last_is_read(flow: Flow, states: list[Vertex]) -> bool:
    """Whether what lies behind the last state is reached from the others by the next one alone, as three of them tell.

    Of a sum there is no next one: whether all of them lead to its end and to nothing else.
    """
    if len(states) < _LEAST_CALLS:
        return False
    following = [frozenset(flow.after.get(state, ())) for state in states]
    if len(set(following)) == 1 and len(following[0]) == 1:
        return True
    behind = flow.descendants(states[-1:])
    return bool(behind) and all(
        behind.isdisjoint(reached(states[at : at + 1], flow.after, states[at + 1]))
        for at in (0, len(states) // 2, len(states) - 3)
    )


def _refines(flow: Flow, states: list[Vertex]) -> bool:
    """Whether each call is given the same beside the state, which is no part of anything: a search for a fixed point.

    Data that no gradient goes back to do not show, so where there is nothing else it is taken for a sequence.
    """
    if len(states) < _LEAST_CALLS:
        return False
    inside = flow.descendants(states[:1]) | set(states[:1])
    beside = []
    for at in (1, 2, len(states) // 2):
        onwards = reached(states[at : at + 1], flow.after, states[at + 1])
        between = onwards & reached(states[at + 1 : at + 2], flow.before) | {states[at + 1]}
        pairs = [(one, vertex) for vertex in between for one in flow.before.get(vertex, ()) if one not in inside]
        beside.append({(one, flow.through.get((one, vertex), ())) for one, vertex in pairs})
    known = bool(beside[0]) and all(one.is_module for one, _ in beside[0])
    whole = not any(name.startswith(_PARTS) for _, through in beside[0] for name in through)
    return known and whole and beside[0] == beside[1] == beside[2]


def _recurrence(trace: Trace, flow: Flow, column: int, owner: str | None = None) -> Recurrence | None:
    """Position t is what the call t + 1 was given; of an `owner` of bare parameters, what the call t has returned."""
    site, since = trace.sites[column], 1 if owner is None else 0
    given = [flow.tensor_of(vertex) for vertex in flow.given(site.module)[1:]]
    states = given if owner is None else flow.returned(site.module)
    size, norm, broken = (
        trace.by_time(site.module, site.quantity, stat, name=site.name).astype(np.float64)[:, since:]
        for stat in (Statistic.RMS, Statistic.L2_NORM, Statistic.NONFINITE_COUNT)
    )
    size[broken > 0] = norm[broken > 0] = np.nan
    steps = np.flatnonzero((~np.isnan(size)).any(axis=1))
    if not len(steps):
        return None
    size, norm = size[steps], norm[steps]
    gain = gain_between(norm, norm, size, reverse=False)
    unknown: Doubles = np.full(len(steps), np.nan)
    return Recurrence(
        module=site.module if owner is None else owner,
        module_type=site.module_type,
        suffix="",
        mode="",
        reverse=False,
        columns=(column,),
        step=steps,
        start=np.full(len(steps), since, dtype=np.int64),
        window=np.full(len(steps), size.shape[1]),
        cut=np.zeros(len(steps), dtype=bool),
        arriving=size,
        carried=size if _only_the_last_is_read(flow, states) else None,
        gain=gain,
        cell_gain=None,
        gain_per_step=geometric_mean(gain),
        lag=lag_of(size),
        forget=None,
        time_constant=None,
        slope=unknown,
        spectral_radius=unknown,
        spectral_norm=unknown,
        refines=_refines(flow, states),
    )

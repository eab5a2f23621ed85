"""Gates that are shut: sigmoids at one bound for all units and inputs, multiplied with what then learns nothing.

Where y = g · p + …, with ∂L/∂g = ∂L/∂y · p and ∂L/∂p = ∂L/∂y · g, how far the gate lets the gradient of p through is

    passed = rms(∂L/∂p) · rms(p) / rms(∂L/∂g)        rms(g), by order of magnitude

of what is multiplied with 1 − g it is rms(1 − g). So a gate at 1 is shut for that factor, one at 0 for the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.flow import Flow, Vertex, flow_of
from gradscope.links import Side
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.gain import BEGINNING
from gradscope.rules.layers import learned_layers
from gradscope.rules.persistence import Persistence, persistence
from gradscope.trace import Doubles, Trace

_SIGMOIDS = ("Sigmoid", "Hardsigmoid")
_MOST_OPEN = 1e-3  # three decades, as of a signal that is lost; a bias of −4, as highway nets have, is 1.8e-2
_MOST_PASSED = 1e-2
_OPEN = 1e-2
_SOON = 3.0  # such runs, at the pace of this one


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutGate:
    """One gate.

    Attributes:
        site: Its output.
        starved: The gradient of what it is multiplied with.
        opening: Of the unit and input that it is most open for, over the steps; NaN where not observed.
        lasting: In which steps it is shut.
    """

    site: Site
    starved: Site
    opening: Doubles
    lasting: Persistence


def shut_gates(trace: Trace) -> Iterator[ShutGate]:
    """All that were shut from the first record on, and have not begun to open, by depth."""
    flow = flow_of(trace)
    for column in trace.columns(Quantity.OUTPUT):
        site = trace.sites[column]
        if flow is None or site.module_type not in _SIGMOIDS:
            continue
        low, high = (trace.statistics[s][:, column].astype(np.float64) for s in (Statistic.MIN, Statistic.MAX))
        opening = np.minimum(high, 1 - low)  # at 0, or at 1
        known = ~np.isnan(opening)
        sick = opening <= _MOST_OPEN
        lasting = persistence(sick, known)
        if lasting is None or not lasting.standing or not sick[known][:BEGINNING].all():
            continue
        if _opens(float(opening[lasting.first]), float(opening[lasting.last])):
            continue
        starved = _starved(trace, flow, column, lasting)
        if starved is not None:
            yield ShutGate(site=site, starved=starved, opening=opening, lasting=lasting)


def _opens(first: float, last: float) -> bool:
    """Whether it will be open before long; what a sigmoid lets through grows by factors."""
    return first < last and (first <= 0 or _SOON * np.log(last / first) >= np.log(_OPEN / last))


def _starved(trace: Trace, flow: Flow, gate: int, lasting: Persistence) -> Site | None:
    """What the gate is multiplied with and hardly gets a gradient, though learned layers make it."""
    asked = _rms(trace, Quantity.OUTPUT_GRAD, trace.sites[gate].module)
    for vertex in _factors(flow, trace.sites[gate].module):
        value, given = (_rms(trace, q, vertex.module) for q in (Quantity.OUTPUT, Quantity.OUTPUT_GRAD))
        if asked is None or value is None or given is None or not _is_learned(trace, flow, vertex.module):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            passed = (given * value / asked)[lasting.rows]
        passed = passed[np.isfinite(passed)]
        if len(passed) and float(np.median(passed)) <= _MOST_PASSED:
            return trace.sites[trace.columns(Quantity.OUTPUT_GRAD, vertex.module)[0]]
    return None


def _factors(flow: Flow, gate: str) -> list[Vertex]:
    """What modules return and is multiplied into what the gate is multiplied into."""
    found: dict[Vertex, None] = {}
    for vertex in flow.returned(gate):
        for following in flow.after.get(vertex, ()):
            if _multiplied(flow, vertex, following):
                others = flow.before.get(following, ())
                found |= dict.fromkeys(o for o in others if o != vertex and _multiplied(flow, o, following))
    return [vertex for vertex in found if vertex.is_module and vertex.side is Side.RETURNED]


def _multiplied(flow: Flow, vertex: Vertex, following: Vertex) -> bool:
    return any(name.startswith("MulBackward") for name in flow.through.get((vertex, following), ()))


def _is_learned(trace: Trace, flow: Flow, module: str) -> bool:
    return not {module, *flow.feeds(module)}.isdisjoint(layer.module for layer in learned_layers(trace))


def _rms(trace: Trace, quantity: Quantity, module: str) -> Doubles | None:
    columns = trace.columns(quantity, module)
    return trace.statistics[Statistic.RMS][:, columns[0]].astype(np.float64) if columns else None

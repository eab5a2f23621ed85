"""Layers that are drawn far too large, however few: what they multiply the signal by beyond what keeps its spread.

A slope needs four layers, but three of fifty times the scale, or one of a thousand times, ruin a run as well. Only what
is left of it at the output counts: a normalisation or a bounded activation behind a layer takes its scale away.

Formula:
    excess = Σ log₁₀ min(√fan_in · rms(w) / gain, rms(y) / rms(x)), over the layers where that is 1.6 or more
The second factor is what the layer does: where a network divides by √fan_in itself, its weights may be large.
"""

from dataclasses import dataclass

import numpy as np

from gradscope.flow import Flow, flow_of
from gradscope.links import Side
from gradscope.records import Quantity, Statistic
from gradscope.rules.activations import LARGEST_SLOPE
from gradscope.rules.chains import chains
from gradscope.rules.gain import GROWTH
from gradscope.rules.layers import LOOKUPS, Layer, learned_layers, relative_scale
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Oversized:
    """The layers that are too large in the first recorded step.

    Attributes:
        layers: Which, by depth.
        excess: Decades that each of them adds. Shape (step, layer).
    """

    layers: tuple[Layer, ...]
    excess: Doubles

    @property
    def decades(self) -> Doubles:
        """Of all together; NaN where one was not observed. Shape (step,)."""
        return np.asarray(self.excess.sum(axis=1))

    @property
    def worst(self) -> Layer:
        """The layer that makes up more than half of it, else the first."""
        first = self.excess[0]
        largest = int(np.argmax(first))
        return self.layers[largest if 2 * first[largest] > first.sum() else 0]


def oversized(trace: Trace) -> Oversized | None:
    """Those along the chain where they add up to most; None without one, or without the forward graph."""
    flow = flow_of(trace)
    if flow is None:
        return None
    known = {layer.module: layer for layer in learned_layers(trace)}
    outputs = {trace.sites[c].module: c for c in reversed(trace.columns(Quantity.OUTPUT))}
    found = []
    for chain in chains(flow, list(known)):
        modules = list(dict.fromkeys(v.module for v in chain if v.is_module and v.side is Side.RETURNED))
        layers = [known[module] for module in _unbounded(trace, modules) if module in known and module in outputs]
        factors = [(layer, _factor(trace, flow, layer, outputs)) for layer in layers]
        large = [(layer, factor) for layer, factor in factors if factor is not None and factor[0] >= GROWTH]
        if large:
            with np.errstate(divide="ignore", invalid="ignore"):
                excess = np.log10(np.stack([factor for _, factor in large], axis=1))
            found.append(Oversized(layers=tuple(layer for layer, _ in large), excess=excess))
    return max(found, key=lambda one: float(one.decades[0]), default=None)


def _factor(trace: Trace, flow: Flow, layer: Layer, outputs: dict[str, int]) -> Doubles | None:
    """What the layer multiplies its signal by over what keeps it, as its weights and the signal both say."""
    given = _given(trace, flow, layer.module, outputs)
    if given is None or layer.module_type in LOOKUPS:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        does = trace.statistics[Statistic.RMS][:, outputs[layer.module]].astype(np.float64) / given
        return np.asarray(np.minimum(relative_scale(trace, layer), does))


def _unbounded(trace: Trace, modules: list[str]) -> list[str]:
    """The modules behind the last that sets the scale of what it returns."""
    types = {site.module: site.module_type for site in trace.sites}
    for place in range(len(modules) - 1, -1, -1):
        kind = types.get(modules[place], "")
        if "Norm" in kind or "Softmax" in kind or kind in LARGEST_SLOPE:
            return modules[place + 1 :]
    return modules


def _given(trace: Trace, flow: Flow, module: str, outputs: dict[str, int]) -> Doubles | None:
    """Rms of the one thing that `module` is given; None where it is several, or was not recorded."""
    feeding = flow.feeds(module)
    columns = [outputs[feeder] for feeder in feeding if feeder in outputs] if feeding else trace.columns(Quantity.INPUT)
    if len(columns) != max(len(feeding), 1):
        return None
    return trace.statistics[Statistic.RMS][:, columns[0]].astype(np.float64)

"""How steep the gates of a recurrent layer are where they work: what gets through them on the way back.

The moments of a gate tell its mean slope exactly: a sigmoid's is s(1 − s), a tanh's 1 − g², so

    E[s(1 − s)] = mean − rms²        at most 1/4
    E[1 − g²]   = 1 − rms²           at most 1

So do those of a softmax over n elements, whose mean is 1/n:

    E[Σ p(1 − p)] = 1 − rms²/mean    at most 1 − mean
"""

from dataclasses import dataclass

import numpy as np

from gradscope.flow import flow_of
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.attention_collapse import heads_of
from gradscope.trace import Doubles, Trace

_SIGMOIDS = frozenset({"input", "forget", "output", "reset", "update"})
_TANHS = frozenset({"cell", "new"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedLayer:
    """One layer and direction of a recurrent module, or a cell.

    Attributes:
        sites: Of its gates.
        slopes: Mean slope of each over its largest, in each step. Shape (step, gate); NaN where not observed.
    """

    sites: tuple[Site, ...]
    slopes: Doubles

    @property
    def module(self) -> str:
        """The module that it belongs to."""
        return self.sites[0].module

    @property
    def steepest(self) -> Doubles:
        """The slope of the gate that passes on the most, in each step. Shape (step,)."""
        return np.asarray(np.max(self.slopes, axis=1))


def gated_layers(trace: Trace) -> tuple[GatedLayer, ...]:
    """All recurrent layers whose gates were seen."""
    groups: dict[tuple[str, str], list[int]] = {}
    for column in trace.columns(Quantity.GATE):
        kind, _, layer = trace.sites[column].name.partition("_")
        if kind in _SIGMOIDS | _TANHS:
            groups.setdefault((trace.sites[column].module, layer), []).append(column)
    return tuple(
        GatedLayer(
            sites=tuple(trace.sites[c] for c in columns),
            slopes=np.stack([_slope(trace, c) for c in columns], axis=1),
        )
        for columns in groups.values()
    )


def _slope(trace: Trace, column: int) -> Doubles:
    mean, rms = (trace.statistics[s][:, column].astype(np.float64) for s in (Statistic.MEAN, Statistic.RMS))
    if trace.sites[column].name.partition("_")[0] in _SIGMOIDS:
        return np.asarray(np.clip(4 * (mean - rms**2), 0, 1))
    return np.asarray(np.clip(1 - rms**2, 0, 1))


def softmax_slopes(trace: Trace) -> dict[int, Doubles]:
    """The mean slope over the largest, over the steps, of each softmax that weighs no values, by its column.

    Those are told by how sharp their attention is (GS306). NaN where not observed.
    """
    attend = heads_of(trace, flow_of(trace))
    found = {}
    for column in trace.columns(Quantity.OUTPUT):
        site = trace.sites[column]
        if site.module_type != "Softmax" or site.module in attend or site.name.startswith("head"):
            continue
        mean, rms = (trace.statistics[s][:, column].astype(np.float64) for s in (Statistic.MEAN, Statistic.RMS))
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (1 - rms**2 / mean) / (1 - mean)
        found[column] = np.where((mean > 0) & (mean < 0.75), np.clip(slope, 0, 1), np.nan)
    return found

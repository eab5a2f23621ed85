"""How far the directions of rows spread at each module, and how many features a row has there."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.layers import LOOKUPS, learned_layers
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """One output.

    Attributes:
        site: Which.
        spread: direction_spread over the steps; NaN where not measured.
        features: Of the learned layer that ran last, or is this one; NaN if unknown.
        attends: Whether it is attention.
    """

    site: Site
    spread: Doubles
    features: float
    attends: bool


def directions_of(trace: Trace) -> list[Direction]:
    """All outputs in which the spread was measured, by depth; softmax, whose rows are weights, is left out."""
    widths = sorted((layer.depth, _features(trace, layer.module, layer.module_type)) for layer in learned_layers(trace))
    depths = [depth for depth, _ in widths]
    found: list[Direction] = []
    seen: set[str] = set()
    attention = {
        trace.sites[c].module
        for c in trace.columns(Quantity.OUTPUT)
        if not np.isnan(trace.statistics[Statistic.ATTENTION_ENTROPY][:, c]).all()
    }
    for column in trace.columns(Quantity.OUTPUT):
        site, spread = trace.sites[column], trace.statistics[Statistic.DIRECTION_SPREAD][:, column].astype(np.float64)
        if site.module in seen or np.isnan(spread).all() or "Softmax" in site.module_type:
            continue
        seen.add(site.module)
        place = bisect_right(depths, site.depth)
        found.append(
            Direction(
                site=site,
                spread=spread,
                features=widths[place - 1][1] if place else np.nan,
                attends=site.module in attention,
            )
        )
    return found


def _features(trace: Trace, module: str, module_type: str) -> float:
    """How many features a layer returns, by the shape of its weight; NaN where that does not tell."""
    shapes = trace.meta.get("shapes")
    shape = shapes.get(f"{module}.weight".lstrip(".")) if isinstance(shapes, Mapping) else None
    if not isinstance(shape, list) or not shape or "Transpose" in module_type:
        return float("nan")
    return float(str(shape[-1] if module_type in LOOKUPS else shape[0]))

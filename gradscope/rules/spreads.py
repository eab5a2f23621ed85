"""The spread of what modules return over the samples, beside that of what they are given."""

from dataclasses import dataclass

import numpy as np

from gradscope.flow import Flow, flow_of
from gradscope.records import Quantity, Site, Statistic
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """A module between what it is given and what it returns.

    Attributes:
        site: Its output.
        own: sample_spread of that over the steps; NaN where not measured.
        given: The largest sample_spread of what feeds it.
        feeders: Columns of what feeds it; of the model's input none.
    """

    site: Site
    own: Doubles
    given: Doubles
    feeders: tuple[int, ...]


class Walls:
    """All modules whose output's spread was measured, by depth; where what feeds one is not known, it is left out.

    Attributes:
        found: In that order.
    """

    def __init__(self, trace: Trace) -> None:
        flow = flow_of(trace)
        spread = trace.statistics[Statistic.SAMPLE_SPREAD]
        columns: dict[str, int] = {}
        for column in trace.columns(Quantity.OUTPUT):
            if not np.isnan(spread[:, column]).all():
                columns.setdefault(trace.sites[column].module, column)
        inputs = [c for c in trace.columns(Quantity.INPUT, "") if not np.isnan(spread[:, c]).all()]
        self.found: list[Wall] = []
        for module, column in columns.items():
            feeders = _feeders(flow, list(columns), module)
            given = [columns[one] for one in feeders if one in columns] or ([] if feeders else inputs)
            if given:
                largest = np.fmax.reduce(spread[:, given].astype(np.float64), axis=1)
                at = tuple(c for c in given if c not in inputs)
                self.found.append(
                    Wall(site=trace.sites[column], own=spread[:, column].astype(np.float64), given=largest, feeders=at)
                )


def _feeders(flow: Flow | None, modules: list[str], module: str) -> tuple[str, ...]:
    """What feeds `module`; where the flow was not seen, what ran before it."""
    if flow is not None and flow.given(module):
        return flow.feeds(module)
    return tuple(modules[: modules.index(module)][-1:])

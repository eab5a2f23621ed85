"""Counts for how many recorded steps each unit of each activation has been silent: what a dead fraction rests on.

In numpy alone, as a merge of rank files counts too: a unit is silent in the whole where it is silent on every rank.
"""

import numpy as np
from numpy.typing import NDArray

WINDOW = 8  # recorded steps without any activation after which a unit counts as dead


class IdleUnits:
    """For how many recorded steps in a row each unit has been silent.

    The units of all activations lie in one array, so a model of hundreds of them costs a few calls a step.
    """

    def __init__(self) -> None:
        self._layout: list[tuple[int, int]] = []  # site and number of units, in the order of _idle
        self._idle = np.zeros(0, dtype=np.int64)
        self._parked: dict[tuple[int, int], NDArray[np.int64]] = {}  # counts of sites that the last step did not run
        self._steps: dict[int, int] = {}

    def count(self, layout: list[tuple[int, int]], silent: NDArray[np.bool_]) -> dict[int, float]:
        """Takes in a step; the dead fraction of each site in it.

        Args:
            layout: Sites and how many units each has.
            silent: Whether each unit was silent in this step, all sites end to end.
        """
        if not layout:
            return {}
        sizes = [size for _, size in layout]
        if layout != self._layout:
            self._rearrange(layout)
        for site, _ in layout:
            self._steps[site] = self._steps.get(site, 0) + 1
        self._idle = (self._idle + 1) * silent
        enough = np.repeat([min(self._steps[site], WINDOW) for site, _ in layout], sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        dead = np.add.reduceat(self._idle >= enough, starts, dtype=np.int64) / sizes
        return dict(zip((site for site, _ in layout), dead.tolist(), strict=True))

    def _rearrange(self, layout: list[tuple[int, int]]) -> None:
        """Brings the counts into a new order; a site that is new, or as wide as never before, begins anew."""
        ends = np.cumsum([size for _, size in self._layout])
        if self._layout:
            self._parked |= dict(zip(self._layout, np.split(self._idle, ends[:-1]), strict=True))
        for key in layout:
            if key not in self._parked:
                self._steps[key[0]] = 0
        self._idle = np.concatenate([self._parked.pop(key, np.zeros(key[1], dtype=np.int64)) for key in layout])
        self._layout = layout

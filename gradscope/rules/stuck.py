"""Activation functions whose units are stuck, gathered into few findings."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.records import Site
from gradscope.rules.persistence import Persistence
from gradscope.rules.regions import runs
from gradscope.trace import Doubles

MOST = 3  # findings of one rule; beyond that they are one story


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """One activation function in which a share of the units, or elements, is stuck.

    Attributes:
        site: Its output.
        lasting: In which steps.
        share: How many, over all steps.
    """

    site: Site
    lasting: Persistence
    share: Doubles


def gathered(found: Sequence[Stuck | None]) -> list[tuple[Stuck, tuple[Site, ...]]]:
    """From one entry for each activation function, by depth, to (the one to name, all that it stands for).

    Neighbours make one group; the earliest of it is named, and of those the shallowest, since what follows may follow
    from it. More than `MOST` groups become one.
    """
    groups = [[s for i in run if (s := found[i]) is not None] for run in runs([s is not None for s in found])]
    if len(groups) > MOST:
        groups = [[stuck for group in groups for stuck in group]]
    return [
        (min(group, key=lambda s: (s.lasting.first, s.site.depth)), tuple(stuck.site for stuck in group))
        for group in groups
    ]


def and_others(sites: Sequence[Site]) -> str:
    """The rest of a group, as the end of a sentence."""
    others = len(sites) - 1
    return f"; {others} more activation{'s are' if others > 1 else ' is'} much the same" if others else ""

"""Activation functions whose units are stuck, gathered into few findings."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.records import Quantity, Site
from gradscope.rules.persistence import Persistence
from gradscope.rules.regions import runs
from gradscope.trace import Doubles, Trace

MOST = 3  # findings of one rule; beyond that they are one story


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """One activation function in which a share of the units, or elements, is stuck.

    Attributes:
        site: Its output.
        lasting: In which steps.
        share: How many, over all steps.
        bar: From what share on it counts.
    """

    site: Site
    lasting: Persistence
    share: Doubles
    bar: float


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


def giver_of(trace: Trace, site: Site) -> int | None:
    """Column of what the activation at `site` was given: the output of the module with weights that ran last before."""
    owners = {trace.sites[c].module for c in trace.columns(Quantity.WEIGHT)}
    before = [c for c in trace.columns(Quantity.OUTPUT) if trace.sites[c].depth < site.depth]
    return next((c for c in reversed(before) if trace.sites[c].module in owners), None)


def place_of(trace: Trace, site: Site) -> str:
    """The module to look at: a function that a module calls, such as relu#0, is none, what it was given comes from one.

    So names are those of `named_modules()`.
    """
    giver = giver_of(trace, site)
    return site.module if "#" not in site.module or giver is None else trace.sites[giver].module


def and_others(sites: Sequence[Site]) -> str:
    """The rest of a group, as the end of a sentence."""
    others = len(sites) - 1
    return f"; {others} more activation{'s are' if others > 1 else ' is'} much the same" if others else ""

"""From many affected modules to few places: whole subtrees, and neighbours in the order of the model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Region:
    """Modules that follow each other.

    Attributes:
        module: The longest common prefix of the members if its subtree lies wholly in the region, else the last
            member.
        members: In the order of the model.
    """

    module: str
    members: tuple[str, ...]

    def __str__(self) -> str:
        if len(self.members) == 1 or self.module not in self.members:
            return self.module or "the model"
        return f"{self.members[0]} to {self.members[-1]}"


def regions(affected: Collection[str], owners: Sequence[str]) -> list[Region]:
    """`affected` modules in runs that follow each other in `owners`."""
    found = [[owners[i] for i in run] for run in runs([owner in affected for owner in owners])]
    return [Region(_name(run, owners), tuple(run)) for run in found]


def runs(affected: Sequence[bool]) -> list[list[int]]:
    """Indices of what is affected, in runs without a gap."""
    found: list[list[int]] = []
    for index, hit in enumerate(affected):
        if hit and index and affected[index - 1]:
            found[-1].append(index)
        elif hit:
            found.append([index])
    return found


def common_prefix(modules: Sequence[str]) -> str:
    """The longest module name that all of `modules` lie in; "" is the model as a whole."""
    shared: list[str] = []
    for level in zip(*(module.split(".") if module else [] for module in modules), strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def _name(run: list[str], owners: Sequence[str]) -> str:
    prefix = common_prefix(run)
    inside = {owner for owner in owners if owner == prefix or owner.startswith(prefix + ".")}
    return prefix if prefix and inside <= set(run) else run[-1]

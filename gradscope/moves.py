"""Which finding of one run is which of another: the same rule at the same module, or else at another one."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradscope.alignment import Alignment
from gradscope.findings import Finding, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A finding that both runs have.

    Attributes:
        a: As it is in A.
        b: As it is in B.
        elsewhere: Whether the modules that they speak of have none in common.
        slack: Steps by which the onset may differ and be the same.
    """

    a: Finding
    b: Finding
    elsewhere: bool
    slack: float

    @property
    def at_another_time(self) -> bool:
        """Whether it began earlier or later by more than `slack`."""
        return abs(self.b.first_step - self.a.first_step) > self.slack

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        return {
            "code": self.a.code,
            "pathology": self.a.pathology,
            "elsewhere": self.elsewhere,
            "at_another_time": self.at_another_time,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
        }


def matched(a: Sequence[Finding], b: Sequence[Finding], alignment: Alignment, slack: float) -> tuple[Match, ...]:
    """The pairs, in the order of A's findings; each finding is in one at most.

    Of the same rule those at one module come first, then those whose modules overlap, and what is then left over is
    paired as it comes: the roots first, so that a symptom does not take the place of one.
    """
    found: dict[int, Match] = {}
    free = dict(enumerate(b))
    for likeness in (_same_module, _overlapping, _anywhere):
        for index, one in enumerate(a):
            if index in found:
                continue
            fitting = [at for at, other in free.items() if one.code == other.code and likeness(one, other, alignment)]
            if fitting:
                at = min(fitting, key=lambda at: (free[at].role is not one.role, at))
                found[index] = Match(a=one, b=free.pop(at), elsewhere=likeness is _anywhere, slack=slack)
    return tuple(found[index] for index in sorted(found))


def _same_module(one: Finding, other: Finding, alignment: Alignment) -> bool:
    return one.module == alignment.in_a(other.module)


def _overlapping(one: Finding, other: Finding, alignment: Alignment) -> bool:
    return not set(one.modules).isdisjoint(map(alignment.in_a, other.modules))


def _anywhere(one: Finding, other: Finding, alignment: Alignment) -> bool:
    return True

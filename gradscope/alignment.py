"""Which module of one model is which of another: by name, where one has a prefix that the other lacks too.

A model that was wrapped (`module.`), or became a part of a larger one (`backbone.`), is the same model still.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gradscope.trace import Trace

_LEAST_SHARE = 0.5  # of the smaller model's modules that a prefix must bring together: two of fifty share a name anyway


@dataclass(frozen=True, slots=True)
class Prefix:
    """What the names of one of the two models begin with, and those of the other do not.

    Attributes:
        text: With its dot, ``backbone.``.
        of: Whose names have it, "a" or "b".
    """

    text: str
    of: str


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The modules of two models, paired. The model as a whole, "", is always paired with the other.

    Attributes:
        pairs: Names in A and in B, in the order of A's execution; without "".
        only_a: Modules that have no counterpart in B, likewise.
        only_b: Modules that have none in A, in the order of B's execution.
        prefix: That one of them has; None where names are paired as they are.
        retyped: Of pairs whose classes differ: the classes in A and in B, by the name in A.
    """

    pairs: tuple[tuple[str, str], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    prefix: Prefix | None = None
    retyped: Mapping[str, tuple[str, str]]

    @cached_property
    def to_a(self) -> dict[str, str]:
        """Names in A by names in B."""
        return {"": "", **{b: a for a, b in self.pairs}}

    def in_a(self, module: str) -> str:
        """What a module of B, or a container that never ran, is called in A; its own name where it has none there."""
        known = self.to_a.get(module)
        if known is not None or self.prefix is None or module in self.only_b:
            return module if known is None else known
        if self.prefix.of == "a":
            return self.prefix.text + module
        return module.removeprefix(self.prefix.text)


def align(a: Trace, b: Trace) -> Alignment:
    """Pairs the modules that the two traces have sites of."""
    in_a, in_b = _modules(a), _modules(b)
    prefix = _prefix(in_a, in_b)
    moved = {}
    if prefix is not None:
        longer, shorter = (in_a, in_b) if prefix.of == "a" else (in_b, in_a)
        stripped = {name: name.removeprefix(prefix.text) for name in longer if name.startswith(prefix.text)}
        moved = {name: bare for name, bare in stripped.items() if bare in shorter}
        if prefix.of == "b":
            moved = {bare: name for name, bare in moved.items()}
    taken = set(moved.values())
    direct = {name: name for name in in_a if name not in moved and name in in_b and name not in taken}
    pairs = tuple((name, other) for name in in_a if (other := moved.get(name) or direct.get(name)) is not None)
    paired_a, paired_b = {name for name, _ in pairs}, {name for _, name in pairs}
    return Alignment(
        pairs=pairs,
        only_a=tuple(name for name in in_a if name not in paired_a),
        only_b=tuple(name for name in in_b if name not in paired_b),
        prefix=prefix,
        retyped={one: (in_a[one], in_b[other]) for one, other in pairs if in_a[one] != in_b[other]},
    )


def _modules(trace: Trace) -> dict[str, str]:
    """Classes by names, in the order of execution; those that never ran at the end."""
    sites = sorted(trace.sites, key=lambda site: (site.depth < 0, site.depth))
    return {site.module: site.module_type for site in sites if site.module}


def _prefix(in_a: Mapping[str, str], in_b: Mapping[str, str]) -> Prefix | None:
    """The prefix that pairs the most modules of one class, if it pairs more than the names as they are."""
    found: Counter[Prefix] = Counter()
    for of, longer, shorter in (("a", in_a, in_b), ("b", in_b, in_a)):
        for name, module_type in longer.items():
            for prefix, bare in _parted(name):
                if shorter.get(bare) == module_type:
                    found[Prefix(prefix, of)] += 1
    best = min(found, key=lambda one: (-found[one], len(one.text), one.of), default=None)
    as_they_are = sum(in_b.get(name) == module_type for name, module_type in in_a.items())
    least = max(as_they_are + 1, _LEAST_SHARE * _smaller(in_a, in_b))
    return best if best is not None and found[best] >= least else None


def _smaller(one: Collection[str], other: Collection[str]) -> int:
    return min(len(one), len(other))


def _parted(name: str) -> Iterator[tuple[str, str]]:
    """``a.b.c`` → ``a.`` and ``b.c``, ``a.b.`` and ``c``."""
    at = name.find(".")
    while at >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)

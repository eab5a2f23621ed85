"""A line of the model's code that takes a value out of the graph, so that no gradient goes back through it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradscope.findings import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One call of `detach` or the like.

    Attributes:
        function: Name of the function.
        file: As a person names it.
        line: From 1 on.
        modules: Owners of the parameters that the value was computed from.
    """

    function: str
    file: str
    line: int
    modules: frozenset[str]

    def __str__(self) -> str:
        return f"`{self.function}` at {self.file}:{self.line}"

    def to_dict(self) -> dict[str, Json]:
        """As a trace holds it."""
        modules: list[Json] = [*sorted(self.modules)]
        return {"function": self.function, "file": self.file, "line": self.line, "modules": modules}


def cuts(meta: Mapping[str, Json]) -> tuple[Cut, ...]:
    """The cuts that a trace holds."""
    listed = meta.get("cuts")
    return tuple(
        Cut(
            function=str(one["function"]),
            file=str(one["file"]),
            line=int(str(one["line"])),
            modules=frozenset(map(str, modules)),
        )
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, Mapping) and isinstance(modules := one.get("modules"), list)
    )


def narrowest(found: Iterable[Cut], modules: Iterable[str]) -> Cut | None:
    """The cut that takes out all of `modules` and the least beside them; None where there is none."""
    wanted = frozenset(modules)
    fitting = [cut for cut in found if wanted <= cut.modules]
    return min(fitting, key=lambda cut: len(cut.modules), default=None)

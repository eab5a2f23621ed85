"""Where in the user's source a module of the model is written."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of a file.

    Attributes:
        file: With forward slashes; relative to the root of the project where it lies in it, else absolute.
        line: From 1 on.
    """

    file: str
    line: int


def places(meta: Mapping[str, object]) -> dict[str, Place]:
    """The places that a trace holds, by module."""
    sources = meta.get("sources")
    found = {}
    for file, lines in sources.items() if isinstance(sources, Mapping) else ():
        for module, line in lines.items() if isinstance(lines, Mapping) else ():
            if isinstance(line, int):
                found[module] = Place(file=file, line=line)
    return found


def place_of(module: str, places: Mapping[str, Place]) -> Place | None:
    """Where `module` is written, or the nearest that it is a part of; "" is the model."""
    while module not in places and module:
        module = module.rpartition(".")[0]
    return places.get(module)

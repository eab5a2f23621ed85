"""Where in the user's source a module of the model is written.

A module is written where its parent registers it, `self.fc1 = …`; else where its class is, if that is the user's. Of an
installed package nothing is said: the user has not written it.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import unwrap
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from gradscope.tracebacks import of_the_user

if TYPE_CHECKING:
    import ast

    from gradscope.registrations import Children, Maker
    from gradscope.source_file import Source


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


# ---------------------------------------------------------------- of a model


def written(
    modules: Mapping[str, object], *, factory: Callable[..., object] | None = None
) -> dict[str, dict[str, int]]:
    """What a trace says of it, {file: {module: line}}; never an error, at worst nothing.

    What follows from another entry is left out: a module without one is written where the one around it is.

    Args:
        modules: By name, without wrappers, the model ("") first.
        factory: What has made the model; it tells the place where the model's class is not the user's.
    """
    found: dict[str, tuple[str, int]] = {}
    with suppress(Exception):  # whatever a user's class or file may be: the training goes on
        _find(found, modules, factory)
    with suppress(Exception):  # the current folder may be gone
        return _by_file(found)
    return {}


def with_calls(sources: object, calls: Mapping[str, tuple[str, int]]) -> dict[str, dict[str, int]]:
    """`sources` with the lines that call functions, by their sites' modules, as far as they are the user's."""
    known = sources if isinstance(sources, Mapping) else {}
    merged = {file: dict(lines) for file, lines in known.items()}
    own = {module: place for module, place in calls.items() if is_users(place[0])}
    with suppress(OSError):  # the current folder may be gone
        root = project_root() if own else ""
        for module, (file, line) in own.items():
            merged.setdefault(_shown(file, root), {})[module] = line
    return merged


def seen_from_the_project(file: str) -> str:
    """A file as a person would name it: relative to the project, of an installed package as it is imported."""
    for folder in ("site-packages", "dist-packages"):
        _, found, inside = file.rpartition(f"{os.sep}{folder}{os.sep}")
        if found:
            return inside.replace(os.sep, "/")
    try:
        return _shown(file, project_root())
    except OSError:  # the current folder may be gone
        return file


class _Site(NamedTuple):
    """The expression that makes a module, and what is added to it later."""

    file: str
    source: "Source"
    maker: "Maker"
    added: "Children | None" = None

    def children(self) -> "Children":
        children = self.source.children_of(self.maker)
        if self.added is not None:
            children.take(self.added)
        return children


class _Definition(NamedTuple):
    """A class of the user's."""

    file: str
    source: "Source"
    node: "ast.ClassDef"


_read: "WeakKeyDictionary[type, list[_Definition]]" = WeakKeyDictionary()


def _find(
    found: dict[str, tuple[str, int]], modules: Mapping[str, object], factory: Callable[..., object] | None
) -> None:
    """Notes file and line of each module of which something is known."""
    sites: dict[str, _Site] = {}
    made = _factory_site(factory) if factory is not None else None
    if made is not None:
        sites[""] = made
    for name, module in modules.items():
        with suppress(Exception):  # one strange class hides no other
            _find_one(found, sites, name, module)


def _find_one(found: dict[str, tuple[str, int]], sites: dict[str, _Site], name: str, module: object) -> None:
    cls = type(module)
    if (own := _read.get(cls)) is None:
        own = _read[cls] = list(_definitions(cls))
    site = sites.get(name)
    if own and (site is None or not name):
        found[name] = own[0].file, own[0].node.lineno
    elif site is not None:
        found[name] = site.file, site.maker.line
    if own or site is not None:
        for child, one in _children(module, own, site):
            sites[f"{name}.{child}" if name else child] = one


def _children(module: object, own: list[_Definition], site: _Site | None) -> Iterator[tuple[str, _Site]]:
    """Where the children of a module are made: by its class, or in the expression that makes the module itself."""
    registered = getattr(module, "_modules", {})
    written_here: Children | None = None
    for position, (name, child) in enumerate(registered.items()):
        asked = (name, position, len(registered), type(child).__name__)
        for one in own:
            children = one.source.of_class(one.node)
            if (maker := children.maker(*asked)) is not None:
                yield name, _Site(one.file, one.source, maker, children.inside.get(name))
                break
        else:
            if site is not None:
                written_here = site.children() if written_here is None else written_here
                if (maker := written_here.maker(*asked)) is not None:
                    yield name, _Site(site.file, site.source, maker)


def _definitions(cls: type) -> Iterator[_Definition]:
    """The class and those that it is derived from, as far as they are the user's and can be read."""
    for one in cls.__mro__:
        file = _file_of(one.__module__)
        source = _source(file) if file is not None else None
        if file is None or source is None:
            continue
        nodes = source.classes.get(one.__qualname__, [])
        codes = [code for item in vars(one).values() if (code := _code(item)) is not None]
        lines = [code.co_firstlineno for code in codes if _same_file(code.co_filename, file)]
        if not lines and any(code.co_filename.startswith("<") for code in codes):
            continue  # made by exec, under the name of this module
        around = [n for n in nodes if any(n.lineno <= line <= (n.end_lineno or line) for line in lines)]
        if nodes:
            yield _Definition(file, source, (around or nodes)[-1])


def _factory_site(factory: Callable[..., object]) -> _Site | None:
    """The line at which `factory` is defined, and what it returns."""
    from gradscope.registrations import Maker, Scope

    code = _code(factory)
    source = _source(code.co_filename) if code is not None and is_users(code.co_filename) else None
    if code is None or source is None:
        return None
    for node in source.functions.get(code.co_qualname, []):
        first = min((decorator.lineno for decorator in node.decorator_list), default=node.lineno)
        if first <= code.co_firstlineno <= node.lineno:
            returned = next(source.returned(Scope(node)), None)
            return _Site(
                code.co_filename, source, Maker(node.lineno, returned.value if returned else None, Scope(node))
            )
    return None


# ---------------------------------------------------------------- files


def project_root() -> str:
    """The nearest folder from the current one upwards that is a repository, else that has a pyproject.toml."""
    here = Path.cwd()
    for mark in (".git", "pyproject.toml"):
        for folder in (here, *here.parents):
            if (folder / mark).exists():
                return str(folder)
    return str(here)


@lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether it is a file of Python that the user has written; asked of every class that a model has."""
    return file.endswith((".py", ".pyw")) and of_the_user(file) and os.path.isfile(file)  # a notebook's cell is no file


def _file_of(module: str) -> str | None:
    """The file of a module that is imported, if it is the user's."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return file if isinstance(file, str) and is_users(file) else None


def _source(file: str) -> "Source | None":
    from gradscope.source_file import parsed  # only where there is a class of the user's

    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return parsed(file, status.st_mtime_ns, status.st_size)


def _code(item: object) -> CodeType | None:
    """What a function, a method or a partial runs; decorators that say whom they wrap are looked through."""
    while isinstance(item, partial | MethodType | staticmethod | classmethod):
        item = item.func if isinstance(item, partial) else item.__func__
    item = unwrap(item) if isinstance(item, FunctionType) else item
    return item.__code__ if isinstance(item, FunctionType) else None


def _same_file(one: str, other: str) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _shown(file: str, root: str) -> str:
    """Relative to `root` where it lies below, with forward slashes."""
    path, base = os.path.realpath(file), os.path.realpath(root)
    inside = path.startswith(base.rstrip(os.sep) + os.sep)
    return (os.path.relpath(path, base) if inside else path).replace(os.sep, "/")


def _by_file(found: Mapping[str, tuple[str, int]]) -> dict[str, dict[str, int]]:
    root = project_root() if found else ""
    shown = {file: _shown(file, root) for file in {file for file, _ in found.values()}}
    known: dict[str, Place] = {}
    by_file: dict[str, dict[str, int]] = {}
    for module, (file, line) in found.items():
        place = Place(file=shown[file], line=line)
        if place_of(module, known) != place:
            known[module] = place
            by_file.setdefault(place.file, {})[module] = line
    return by_file

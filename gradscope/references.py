"""What the user names as "package.module:name": imported, without torch unless the user's module needs it."""

import importlib
import os
import pkgutil
import sys
from pathlib import Path

from gradscope.errors import UsageError, nearest
from gradscope.tracebacks import during

_MOST_NAMES = 8  # of a module are shown where none is near
_FOLDERS = ("src", "*", "*/src", "*/*", "*/*/src")  # where projects keep their packages


def resolve(reference: str, *, written: str) -> object:
    """The object that `reference`, "package.module:attribute.attribute", names.

    What the user's module raises while it is imported passes through, with a note.

    Args:
        reference: What is wanted.
        written: How the user wrote it, for the sentence: "--model acme.models:buld".

    Raises:
        UsageError: It is no reference, or there is no such module or name.
    """
    module, _, name = reference.partition(":")
    if not is_reference(reference):
        raise UsageError(f"{written}: {reference!r} must be a module and a name in it{meant(reference)}")
    found = _imported(module, written)
    path = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            if path == module and part in _modules_in(module):
                raise UsageError(
                    f"{written}: {module}.{part} is a module; name what you want in it: '{module}.{part}:…'."
                ) from None
            known = [word for word in dir(found) if not word.startswith("_")]
            raise UsageError(f"{written}: {path} has no {part!r}{_near(part, known)}") from None
        path = f"{path}.{part}" if path != module else f"{module}:{part}"
    return found


def is_reference(text: str) -> bool:
    """Whether it is a module and a name in it: "package.module:attribute"."""
    module, _, name = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def meant(reference: str) -> str:
    """The way out where something is no reference: what the user may have meant, or an example."""
    module, colon, name = reference.partition(":")
    module = module.removesuffix(".py").replace("\\", "/").removeprefix("./").replace("/", ".").strip()
    if not colon:
        module, _, name = module.rpartition(".")
    name = name.strip().removesuffix("()")
    if is_reference(f"{module}:{name}"):
        return f"; write '{module}:{name}'."
    return ", such as 'acme.models:build'."


def _imported(name: str, written: str) -> object:
    importlib.invalidate_caches()  # a file may have been written since this process began
    try:
        with during(f"the import of {name}"):
            __import__(name)  # `importlib.import_module` would leave its own frames in the user's traceback
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{name}.".startswith(f"{missing.name}."):
            raise  # the module is there, and lacks another
        parent, _, last = missing.name.rpartition(".")
        near = _near(last, _modules_in(parent), f"{parent}." if parent else "")
        if parent and not hasattr(sys.modules.get(parent), "__path__"):
            near = f"; {parent} is a module, no package: write '{parent}:{name.removeprefix(f'{parent}.')}'."
        if not parent and (folder := _folder_with(last)) is not None:
            project = folder.removesuffix("src").rstrip("/") or "."
            near = f"; it lies in {folder}: `pip install -e {project}`, or set PYTHONPATH={folder}."
        where = f" (looked for from {os.getcwd()!r})" if not parent else ""
        raise UsageError(f"{written}: there is no module {missing.name!r}{where}{near}") from None
    return sys.modules[name]


def _modules_in(parent: str) -> list[str]:
    """Modules of the package `parent`; "" is the current folder. A module that is no package has none."""
    path = getattr(sys.modules.get(parent), "__path__", ()) if parent else [os.getcwd()]
    return [found.name for found in pkgutil.iter_modules(path)]


def _folder_with(module: str) -> str | None:
    """The folder in which `module` lies though nobody imports from there: src, or a project of a monorepo."""
    here = Path.cwd()
    for root in dict.fromkeys([here, *(Path(entry) for entry in sys.path if entry and here.is_relative_to(entry))]):
        for pattern in _FOLDERS:
            for folder in sorted(root.glob(pattern)):
                written = Path(os.path.relpath(folder, here)).as_posix()
                strange = any(part.startswith(".") or part == "build" for part in folder.relative_to(root).parts)
                if not strange and ((folder / module).is_dir() or (folder / f"{module}.py").is_file()):
                    return written
    return None


def _near(word: str, known: list[str], prefix: str = "") -> str:
    if not known:
        return "."
    way_out = nearest(prefix + word, [prefix + one for one in known])
    return way_out if "did you mean" in way_out or len(known) <= _MOST_NAMES else "."

"""Something to do when a module has been imported, and not before: gradscope must not load torch ahead of a script.

Scripts set what torch reads when it is loaded (`CUDA_VISIBLE_DEVICES`, `OMP_NUM_THREADS`), and those that never load it
should not wait for it.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_imported(name: str, act: Callable[[], None]) -> None:
    """Calls `act` once: as soon as the module `name` has been imported, or at once if it has been."""
    if name in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Awaiting(name, act))


class _Awaiting(MetaPathFinder):
    """Finds nothing by itself; once asked for its module it leaves."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self._name = name
        self._act = act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders say, with a loader that acts afterwards."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)  # it may be found later
            return None
        spec.loader = _Acting(spec.loader, self._act)
        return spec


class _Acting(Loader):
    """Another's loader, and an act after it."""

    def __init__(self, loader: Loader, act: Callable[[], None]) -> None:
        self._loader = loader
        self._act = act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module as the real loader makes it."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, in which nothing is left of this loader, then acts."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._act()

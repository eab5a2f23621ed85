"""What is being trained, found by looking at what is alive: nothing of the user's is called, changed or kept.

A root is the outermost module that holds what an optimizer moves: of a generator and a discriminator there are two, of
a LightningModule with both in it there is one.
"""

import gc
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import FrameType, ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.probes.names import unwrapped

_NOT_THE_USERS = frozenset({"gradscope", "torch"})  # their frames call the root `self` and `module`
_MOST_NODES = 200_000  # of an autograd graph: a second's walk


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What `optimizer` moves."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def without_shape(parameters: Iterable[Tensor]) -> bool:
    """Whether a lazy module has yet to make some of `parameters`."""
    return any(is_lazy(p) for p in parameters)


class Living:
    """The modules and AMP scalers that are alive now. To look for them takes a tenth of a second."""

    def __init__(self) -> None:
        found = list(_of_kinds(nn.Module, torch.amp.GradScaler))
        self._modules = [one for one in found if isinstance(one, nn.Module)]
        self.scalers = [one for one in found if isinstance(one, torch.amp.GradScaler) and one.is_enabled()]
        self._parents: dict[int, list[nn.Module]] = {}
        for module in self._modules:
            for child in _children(module):
                self._parents.setdefault(id(child), []).append(module)

    def roots_of(self, parameters: Iterable[Tensor]) -> list[nn.Module]:
        """The outermost modules that hold any of `parameters`."""
        wanted = {id(p) for p in parameters}
        holders = (m for m in self._modules if any(id(p) in wanted for p in _own_parameters(m)))
        reached = {id(module): module for module in holders}
        waiting = list(reached.values())
        while waiting:
            for parent in self._parents.get(id(waiting.pop()), ()):
                if id(parent) not in reached:
                    reached[id(parent)] = parent
                    waiting.append(parent)
        return [module for key, module in reached.items() if not self._parents.get(key)]


def narrowed(root: nn.Module, called: nn.Module | None, trained: Collection[int]) -> nn.Module:
    """`root` without what is only around it: wrappers, and what is not called and has no more to train than its part.

    So the average of a model's weights, which holds the model too, is left out. A LightningModule stays: its methods
    are called instead of it, and its names are those that its author knows.

    Args:
        root: As `Living.roots_of` finds it.
        called: The outermost module that is being called, if that is known.
        trained: Identities of the parameters that optimizers move.
    """
    root = unwrapped(root)
    while called is not None and root is not called and not _is_lightning(root):
        mine = {id(p) for p in root.parameters()}.intersection(trained)
        inner = [child for child in _children(root) if any(module is called for module in child.modules())]
        if len(inner) != 1 or not mine <= {id(p) for p in inner[0].parameters()}:
            break
        root = unwrapped(inner[0])
    return root


def _is_lightning(module: nn.Module) -> bool:
    return any(cls.__name__ == "LightningModule" for cls in type(module).__mro__)


def leaves_behind(tensors: Iterable[object]) -> list[Tensor]:
    """The tensors whose gradients a backward from `tensors` adds to; none where that would take long to find out."""
    waiting = [t.grad_fn for t in tensors if isinstance(t, Tensor) and t.grad_fn is not None]
    seen: set[object] = set(waiting)
    found: list[Tensor] = []
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found.append(variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return [] if waiting else found


def _of_kinds(*kinds: type) -> Iterator[object]:
    """All objects of these classes, by their type: some objects run code of their own when asked for their class."""
    fitting: dict[type, bool] = {}
    for one in gc.get_objects():
        cls = type(one)
        if cls not in fitting:
            fitting[cls] = issubclass(cls, kinds) and not issubclass(cls, torch.jit.ScriptModule)
        if fitting[cls]:
            yield one


def _children(module: nn.Module) -> list[nn.Module]:
    children: Mapping[str, nn.Module | None] = vars(module).get("_modules") or {}  # it may be half built
    return [child for child in children.values() if child is not None]


def _own_parameters(module: nn.Module) -> list[Tensor]:
    parameters: Mapping[str, Tensor | None] = vars(module).get("_parameters") or {}
    return [parameter for parameter in parameters.values() if parameter is not None]


# ---------------------------------------------------------------- what a root is called


def name_of(root: nn.Module, main: ModuleType) -> str:
    """What the script calls `root`: a variable's name or an attribute's, else its class's."""
    return next(_names_given(root, main), type(root).__name__.lower())


def _names_given(root: nn.Module, main: ModuleType) -> Iterator[str]:
    yield from _keys_of(root, vars(main))
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package not in _NOT_THE_USERS and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            local = frame.f_locals
            names = list(_keys_of(root, local))
            if isinstance(local, dict):
                local.clear()  # up to Python 3.12 a copy, which would keep alive what the function has let go
            yield from names
        frame = frame.f_back
    for referrer in gc.get_referrers(root):
        kept = referrer if isinstance(referrer, dict) else getattr(referrer, "__dict__", None)
        if isinstance(kept, dict) and "__builtins__" not in kept:
            yield from _keys_of(root, kept)


def _keys_of(root: nn.Module, names: Mapping[str, object]) -> Iterator[str]:
    """The names under which `names` has `root`, or a wrapper of it."""
    for name, value in list(names.items()):
        if not isinstance(name, str) or not name.isidentifier() or name == "self":
            continue
        if issubclass(type(value), nn.Module) and isinstance(value, nn.Module) and unwrapped(value) is root:
            yield name

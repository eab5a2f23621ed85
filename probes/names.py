"""What modules and parameters are called: by the model's author, not by those who have wrapped it since.

DistributedDataParallel, `torch.compile`, FSDP and checkpoint wrappers put a module around another and a word into every
name below it. Here the wrappers are left out, so `_orig_mod.layer1.0` and `module.layer1.0` are `layer1.0`.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

# the child that a wrapper holds, whatever the wrapper's class is called
_WRAPPED = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
FSDP1 = "FullyShardedDataParallel"  # by name: its import costs half a second
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)  # theirs is called "module", as anybody's may be
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def class_name(module: nn.Module) -> str:
    """What the module's class is called by who wrote it, and will be.

    `fully_shard` makes a class FSDPLinear of Linear, a parametrization ParametrizedLinear; a LazyLinear becomes a
    Linear in its first forward.
    """
    cls = type(module)
    if isinstance(module, LazyModuleMixin):
        cls = module.cls_to_become or cls
    if "parametrizations" in module._modules and cls.__name__.startswith("Parametrized"):
        cls = cls.__bases__[0]
    return cls.__bases__[1].__name__ if is_fully_sharded(module) else cls.__name__


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to this very module; it makes a class of two bases."""
    bases = type(module).__bases__
    return len(bases) == 2 and bases[0].__name__ == "FSDPModule"  # by name: its import costs what FSDP2 does


def has_flat_parameters(model: nn.Module) -> bool:
    """Whether FSDP1 wraps some of `model`: what its parameters show are parts, without the shape of the whole."""
    waiting, seen = [model], {id(model)}
    while waiting:
        module = waiting.pop()
        if type(module).__name__ == FSDP1:
            return True
        inner = [child for child in module._modules.values() if child is not None and id(child) not in seen]
        seen.update(map(id, inner))
        waiting += inner
    return False


def wrapped(module: nn.Module) -> nn.Module | None:
    """The module that `module` only wraps; None if it is no wrapper."""
    children = module._modules
    if isinstance(module, _PARALLEL):
        return children.get("module")
    if len(children) == 1:
        (name,) = children
        return children[name] if name in _WRAPPED else None
    return None


def unwrapped(module: nn.Module) -> nn.Module:
    """`module` without the wrappers around it."""
    while (inner := wrapped(module)) is not None:
        module = inner
    return module


def bare_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules of `model` by name, each once, without wrappers; "" is the model.

    What the classes have made of `named_modules` does not count: torch itself does not ask it for hooks either.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()  # by identity: a class may have an equality of its own

    def walk(name: str, module: nn.Module) -> None:
        module = unwrapped(module)
        if id(module) in seen:
            return
        seen.add(id(module))
        found[name] = module
        for child_name, child in module._modules.items():
            if child is not None:
                walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", model)
    return found


def bare_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters of `model` by full name, each once, without wrappers."""
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for owner, module in bare_modules(model).items():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{owner}.{name}" if owner else name] = parameter
    return found


def is_leaf(module: nn.Module) -> bool:
    """Whether a module computes by itself: it has no children but parametrizations, or uses them functionally.

    `nn.MultiheadAttention` calls its `out_proj` as a function, so that child never runs.
    """
    return isinstance(module, nn.MultiheadAttention) or all(name == "parametrizations" for name in module._modules)


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules that compute by themselves; lists and dictionaries of modules or parameters do not."""
    closed: str | None = None  # the names below a leaf, or below a scripted module, which takes no hooks, begin so
    for name, module in bare_modules(model).items():
        if closed is not None and name.startswith(closed):
            continue
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted or is_leaf(module):
            closed = f"{name}." if name else ""
            if not scripted and not isinstance(module, _CONTAINERS):
                yield name, module

"""What `attach` is given: is it right, what of it is observed, and what the trace says about it."""

import platform
import time as clock
from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib.metadata import version

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradscope.errors import UsageError, nearest
from gradscope.findings import Json
from gradscope.probes.base import Target
from gradscope.probes.names import bare_modules, bare_parameters, class_name, has_flat_parameters, leaves, unwrapped
from gradscope.probes.recurrent import recurrent_mode
from gradscope.sources import written
from gradscope.steps import GradScaler


def target_of(model: nn.Module, wanted: tuple[str, ...], time_axes: Mapping[str, int]) -> Target:
    """What the probes attach to.

    Raises:
        UsageError: The model has no parameters, or a name matches nothing.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"`attach({model!r})` needs a torch.nn.Module, this is a {type(model).__name__}.")
    called = f"`attach({type(model).__name__})`"
    if isinstance(unwrapped(model), torch.jit.ScriptModule):
        raise UsageError(f"{called}: torch lets nobody watch a scripted module; give the module that it was made of.")
    parameters = bare_parameters(model)
    if not parameters:
        raise UsageError(f"{called}: the model has no parameters, so there is no gradient to watch.")
    modules = dict(leaves(model))
    for pattern in wanted:
        modules |= _matching(model, pattern, f"modules={pattern!r}")
    if not isinstance(time_axes, Mapping):
        raise UsageError(f"`time_axes={time_axes!r}` must give an axis for each name, such as {{'encoder.*': 1}}.")
    axes: dict[str, int] = {}
    for pattern, axis in time_axes.items():
        written = f"time_axes={{{pattern!r}: {axis!r}}}"
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise UsageError(f"`{written}`: an axis is a whole number, such as 1 or -1.")
        found = _matching(model, pattern, written)
        modules |= found
        axes |= dict.fromkeys(found, axis)
    return Target(model=model, modules=modules, parameters=parameters, time_axes=axes)


def bare_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside of a wrapper, such as Accelerate's or Lightning's, which has no hooks of its own."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def require_own(optimizer: torch.optim.Optimizer, target: Target) -> None:
    """Raises a `UsageError` where `optimizer` moves nothing of the model."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"`optimizer={optimizer!r}` must be a torch.optim.Optimizer or a list of them.")
    own = {id(p) for p in target.parameters.values()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise UsageError(
            f"`optimizer={type(optimizer).__name__}` holds none of the parameters of "
            f"{type(unwrapped(target.model)).__name__}; was it built for another model, or before this one was moved "
            "or copied?"
        )


def require_scaler(scaler: GradScaler | None) -> None:
    """Raises a `UsageError` where `scaler` is none."""
    if scaler is not None and not hasattr(scaler, "get_scale"):
        raise UsageError(f"`scaler={scaler!r}` must be an AMP gradient scaler, with a method `get_scale`.")


def _matching(model: nn.Module, pattern: str, written: str) -> dict[str, nn.Module]:
    """The modules whose names match `pattern`, which the user has `written` so."""
    named = bare_modules(model)
    found = {name: module for name, module in named.items() if isinstance(pattern, str) and fnmatchcase(name, pattern)}
    if not found:
        raise UsageError(
            f"`{written}` matches no module of {type(model).__name__}{nearest(str(pattern), filter(None, named))}"
        )
    return found


def about(target: Target) -> "dict[str, Json]":
    """What the trace says of the model and of where it is trained."""
    modules = bare_modules(target.model)
    return {
        "gradscope": version("gradscope"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "created": clock.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": class_name(unwrapped(target.model)),
        "modules": {name: class_name(module) for name, module in modules.items()},
        "sources": {**written(modules)},
        **sizes(target),
        "optimizers": [],
        "recurrent": {name: mode for name, module in modules.items() if (mode := recurrent_mode(module))},
    }


def sizes(target: Target) -> "dict[str, Json]":
    """How large the parameters are, and which are frozen by now; those of lazy modules only once they are there."""
    known = {name: p for name, p in target.parameters.items() if not is_lazy(p)}
    return {
        "parameters": sum(p.numel() for p in known.values()),
        "shapes": {} if has_flat_parameters(target.model) else {name: list(p.shape) for name, p in known.items()},
        "trainable": sum(p.numel() for p in known.values() if p.requires_grad),
        "frozen": [name for name, p in known.items() if not p.requires_grad],
    }


def about_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> "dict[str, Json]":
    """What the trace says of an optimizer: the settings of its first group, and under "groups" those of each.

    A group's "parameters" are the names of those that are the model's.
    """
    names = {id(p): name for name, p in bare_parameters(model).items()}
    groups: list[Json] = [
        {**_settings(group), "parameters": [names[id(p)] for p in group["params"] if id(p) in names]}
        for group in optimizer.param_groups
    ]
    return {"type": type(optimizer).__name__, **_settings(optimizer.param_groups[0]), "groups": groups}


def _settings(group: Mapping[str, object]) -> "dict[str, Json]":
    said: dict[str, Json] = {}
    for key, value in group.items():
        if isinstance(value, bool | int | float | str):
            said[key] = value
        elif isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value):
            said[key] = [float(v) for v in value]
    return said

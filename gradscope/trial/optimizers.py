"""The optimizers of a trial: made of the parameters, of the model, or given ready-made."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.errors import UsageError
from gradscope.target import bare_optimizer
from gradscope.tracebacks import during
from gradscope.trial.losses import takes_model
from gradscope.trial.signatures import a, accepts, called, takes

_DEFAULT_LR = 1e-3


def optimizers_of(given: object, model: nn.Module, lr: float | None, quoted: str) -> tuple[Optimizer, ...]:
    """The optimizers that move `model`, from what the user gave; None is Adam.

    Raises:
        UsageError: It gives no optimizer, or one that does not move the model.
    """
    if given is None:
        return (torch.optim.Adam(_trainable(model), lr=_DEFAULT_LR if lr is None else lr),)
    made = given if isinstance(given, Optimizer | list | tuple) else _made(given, model, lr, quoted)
    found = tuple(made) if isinstance(made, list | tuple) else (made,)
    strange = [one for one in found if not isinstance(one, Optimizer)]
    if strange or not found:
        what = f"a {type(made).__name__} with {a(strange[0])}" if strange and strange[0] is not made else a(made)
        raise UsageError(f"{quoted} must give a torch.optim.Optimizer or a list of them, it gives {what}.")
    optimizers = tuple(bare_optimizer(one) for one in found if isinstance(one, Optimizer))
    own = {id(p) for p in model.parameters()}
    for one in optimizers:
        if not any(id(p) in own for group in one.param_groups for p in group["params"]):
            raise UsageError(
                f"{quoted} gives a {called(type(one))} that moves none of the parameters of {called(type(model))}; was"
                " it made for another model, or another copy of this one?"
            )
    return optimizers


def to_parameters(optimizer: Optimizer) -> None:
    """Moves an optimizer's state to where its parameters have gone."""
    optimizer.load_state_dict(optimizer.state_dict())


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether its step calls the model again, as that of LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _made(given: object, model: nn.Module, lr: float | None, quoted: str) -> object:
    __tracebackhide__ = True
    if not callable(given):
        raise UsageError(
            f"{quoted} is {a(given)}; give a class such as torch.optim.AdamW, or a function of the parameters."
        )
    named: Mapping[str, float] = {} if lr is None else {"lr": lr}
    first = model if takes_model(given) else _trainable(model)
    _require_signature(given, first, named, quoted)
    with during("the making of the optimizer"):
        return given(first, **named)


def _require_signature(given: Callable[..., object], first: object, named: Mapping[str, float], quoted: str) -> None:
    if accepts(given, first, **named):
        return
    if accepts(given, first):
        raise UsageError(f"{quoted} takes {takes(given)} and no lr; leave lr out, or give the function an lr.")
    what = "the model" if isinstance(first, nn.Module) else "the parameters"
    raise UsageError(f"{quoted} takes {takes(given)}; it is called with {what}{' and lr=' if named else ''}.")


def _trainable(model: nn.Module) -> Sequence[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]

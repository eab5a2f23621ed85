"""A trial: a model is trained for a few steps, with a seed, and watched.

    trace = train(Trial(model=build, batch=tiny_batch, loss=cross_entropy), seed=0)

For the same seed the trace is the same, bit by bit. What the user's functions change in the process is put back, and
what they raise passes through as it is, with a note that says when (`tracebacks.told`).
"""

import json
import math
import random
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.config import CheckTarget
from gradscope.errors import GradscopeError, UsageError
from gradscope.findings import Json
from gradscope.probes.names import bare_modules, unwrapped
from gradscope.references import resolve
from gradscope.rules.engine import diagnose
from gradscope.rules.learning import reached
from gradscope.rules.non_finite import NonFinite
from gradscope.scope import attach
from gradscope.sources import written
from gradscope.trace import Trace
from gradscope.tracebacks import during
from gradscope.trial.batches import Batches
from gradscope.trial.copies import copied
from gradscope.trial.isolation import isolated
from gradscope.trial.losses import Loss, loss_of
from gradscope.trial.optimizers import needs_closure, optimizers_of, to_parameters
from gradscope.trial.signatures import a, accepts, called, takes

_LARGEST_SEED = 2**32 - 1  # of numpy's
_built_before: "WeakValueDictionary[int, nn.Module]" = WeakValueDictionary()  # by identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is trained, and how.

    Attributes:
        model: A module, of which a copy is trained, or a function that builds one.
        batch: (inputs, targets); or a function of nothing, or of the step, that returns that; or an iterable of it.
        loss: A function of (outputs, targets), a module, its class, or a function of (model, batch).
        optimizer: A class or function of the parameters, or of the model; an optimizer of `model`; None for Adam.
        lr: Learning rate; None for the optimizer's own.
        steps: Optimizer steps.
        device: As torch writes it; None: where the model is.
        written: How the user wrote these, by name, where that is not as arguments of a function.
    """

    model: object
    batch: object
    loss: object
    optimizer: object = None
    lr: float | None = None
    steps: int = 20
    device: str | torch.device | int | None = None
    written: Mapping[str, str] = field(default_factory=dict)

    def quoted(self, name: str) -> str:
        """An argument as the user wrote it."""
        return self.written.get(name) or f"`{name}={called(getattr(self, name))}`"


def of(target: CheckTarget, *, options: Collection[str] = ()) -> Trial:
    """The trial of a configured target: its references are resolved, so the user's modules are imported.

    Args:
        target: From the settings, or made of the command line's options.
        options: Which of its fields were; a sentence about one of them quotes `--model …`.

    Raises:
        UsageError: A reference does not lead anywhere.
    """
    written = {
        name: f"`--{name} {value}`"
        if name in options
        else f"[[tool.gradscope.check]] {target.name}: {name} = {json.dumps(value)}"
        for name in ("model", "batch", "loss", "optimizer", "lr", "steps", "seeds", "device")
        if (value := getattr(target, name)) is not None
    }
    found = {
        name: resolve(reference, written=written[name])
        for name in ("model", "batch", "loss", "optimizer")
        if (reference := getattr(target, name)) is not None
    }
    return Trial(**found, lr=target.lr, steps=target.steps, device=target.device, written=written)


def train(trial: Trial, seed: int) -> Trace:
    """Trains once, and returns what was recorded.

    Raises:
        UsageError: Something that was given cannot work.
    """
    __tracebackhide__ = True
    _require_numbers(trial, seed)
    device = _device(trial)
    with isolated():
        _seed(seed)
        loss = loss_of(trial.loss, trial.quoted("loss"), trial.quoted("batch"))
        batches = Batches(trial.batch, trial.quoted("batch"), pairs=not loss.of_model, device=device)
        try:
            with _gradients_kept(trial.model):
                return _Training(trial, loss, batches, device).run(seed)
        finally:
            batches.close()


@contextmanager
def _gradients_kept(model: object) -> Iterator[None]:
    """A loss that computes with the caller's model, for a penalty say, adds nothing to its gradients."""
    kept = [(p, p.grad) for p in model.parameters()] if isinstance(model, nn.Module) else []
    for p, _ in kept:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in kept:
            p.grad = gradient


class _Training:
    """One training of a trial, from the making of the model on."""

    def __init__(self, trial: Trial, loss: Loss, batches: Batches, device: torch.device | None) -> None:
        __tracebackhide__ = True
        self.trial = trial
        self.batches = batches
        self.model, self.loss, optimizer = _own(trial, loss)
        if any(p.is_meta for p in chain(self.model.parameters(), self.model.buffers())):
            raise UsageError(
                f"{trial.quoted('model')}: {called(type(self.model))} is on torch's meta device, where nothing has a"
                " value; build it on the CPU, or give it values: `model.to_empty(device='cpu')` and an initialisation."
            )
        if device is not None:
            self.model.to(device)
            if isinstance(self.loss.function, nn.Module):
                self.loss.function.to(device)
        if not self.model.training:
            self.model.train()
        _require_trainable(self.model, trial)
        self._first: object = None
        if any(is_lazy(p) for p in chain(self.model.parameters(), self.model.buffers())):
            self._first = batches.at(0)
            self.loss.warm_up(self.model, self._first)
        self.optimizers = optimizers_of(optimizer, self.model, trial.lr, trial.quoted("optimizer"))
        if _instances(trial.optimizer):
            _adjust(self.optimizers, trial.lr)

    def run(self, seed: int) -> Trace:
        """The steps, watched."""
        __tracebackhide__ = True
        scope = attach(self.model, optimizer=self.optimizers, meta={"seed": seed, **self._source()})
        try:
            with scope:
                for step in range(self.trial.steps):
                    scope.record_loss(self._step(step))
            self._require_reached(scope.trace)
        except GradscopeError:
            raise
        except Exception:
            if not _broken(scope.trace):
                raise  # else the error follows from what the trace shows, and the trace shows where it began
        return scope.trace

    def _source(self) -> dict[str, Json]:
        """Where the model is written, with the function that has built it; without one `attach` finds out by itself."""
        build = self.trial.model
        if isinstance(build, nn.Module) or not callable(build):
            return {}
        return {"sources": written(bare_modules(self.model), factory=build)}

    def _step(self, step: int) -> Tensor:
        __tracebackhide__ = True
        batch = self.batches.at(step) if step or self._first is None else self._first
        closures = [one for one in self.optimizers if needs_closure(one)]
        losses: list[Tensor] = []

        def closure() -> float:
            __tracebackhide__ = True
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = self.loss.of(self.model, batch, step)
            with during(f"the backward pass of step {step}"):
                loss.backward()
            if not step and not losses:
                self._require_gradients()
            losses.append(loss.detach())
            return losses[-1]  # type: ignore[return-value]  # a tensor, as everybody's closure returns it

        if not closures:
            closure()
        # first those that compute for themselves: after another's step, a forward would be the next step's
        for optimizer in sorted(self.optimizers, key=lambda one: one not in closures):
            with during(f"the optimizer's step {step}"):
                optimizer.step(closure if optimizer in closures else None)
        if not losses:
            raise UsageError(f"{self.trial.quoted('optimizer')} never calls the closure that its step takes.")
        return losses[0]

    def _require_reached(self, trace: Trace) -> None:
        if not reached(trace):
            raise UsageError(
                f"{self.trial.quoted('loss')} hands no gradient to any parameter of {called(type(self.model))} in"
                f" {self.trial.steps} step{'s' * (self.trial.steps != 1)}: it has a gradient, but not one that leads to"
                " the model; compute it from the model's outputs."
            )

    def _require_gradients(self) -> None:
        given = self.trial.model
        theirs = isinstance(given, nn.Module) and any(p.grad is not None for p in given.parameters())
        if theirs and all(p.grad is None for p in self.model.parameters()):
            raise UsageError(
                f"{self.trial.quoted('loss')} computes with the model that was given, and not with the copy that is"
                " trained; it must use the `model` that it is called with."
            )


def _broken(trace: Trace) -> bool:
    """Whether NaN or infinity had appeared where it does harm: a mask of −inf excuses no error."""
    return bool(diagnose(trace, [NonFinite()]).findings)


def _own(trial: Trial, loss: Loss) -> tuple[nn.Module, Loss, object]:
    """The model, the loss and the optimizer that are this training's own: built, or copied together."""
    __tracebackhide__ = True
    given = trial.model
    own = _instances(trial.optimizer)
    if not isinstance(given, nn.Module):
        if own:
            raise UsageError(
                f"{trial.quoted('optimizer')} moves another model than the one that {trial.quoted('model')} will build;"
                " give a class such as torch.optim.AdamW, or a function of the model."
            )
        return _built(trial), loss, trial.optimizer
    try:
        mine = copied(unwrapped(given), loss.function, own)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "").partition(". ")[0]
        raise UsageError(
            f"{trial.quoted('model')} cannot be copied ({type(error).__name__}: {reason}); give a function that builds"
            f" it: `model=lambda: {called(type(given))}(…)`."
        ) from error
    return mine.model, replace(loss, function=mine.loss), mine.optimizers or trial.optimizer


def _instances(given: object) -> list[Optimizer]:
    """The optimizers that the user gave ready-made."""
    return [one for one in (given if isinstance(given, list | tuple) else [given]) if isinstance(one, Optimizer)]


def _built(trial: Trial) -> nn.Module:
    __tracebackhide__ = True
    build, quoted = trial.model, trial.quoted("model")
    if not callable(build):
        raise UsageError(f"{quoted} is {a(build)}; give a torch.nn.Module, or a function that returns one.")
    if not accepts(build):
        raise UsageError(f"{quoted} takes {takes(build)}; it is called without arguments, so give it defaults.")
    with during("the making of the model"):
        model: object = build()
    if not isinstance(model, nn.Module):
        if isinstance(model, Coroutine):
            model.close()  # else Python warns later, on a line of ours, that it was never awaited
        raise UsageError(f"{quoted} must return a torch.nn.Module, it returns {a(model)}.")
    if _built_before.get(id(model)) is model:
        raise UsageError(f"{quoted} returns the same model again, already trained; it must build a new one.")
    _built_before[id(model)] = model
    return model


def _adjust(optimizers: Sequence[Optimizer], lr: float | None) -> None:
    for optimizer in optimizers:
        to_parameters(optimizer)
        for group in optimizer.param_groups if lr is not None else ():
            group["lr"] = lr


def _require_trainable(model: nn.Module, trial: Trial) -> None:
    if isinstance(unwrapped(model), torch.jit.ScriptModule):
        raise UsageError(
            f"{trial.quoted('model')} is scripted, so torch lets nobody watch it; give what it was made of."
        )
    name, parameters = called(type(model)), list(model.parameters())
    if not parameters:
        raise UsageError(f"{trial.quoted('model')}: {name} has no parameters, so there is nothing to train.")
    if not any(p.requires_grad for p in parameters):
        raise UsageError(f"{trial.quoted('model')}: no parameter of {name} requires a gradient, so nothing is trained.")


def _require_numbers(trial: Trial, seed: int) -> None:
    for name, value, least in (("steps", trial.steps, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(
                f"{trial.written.get(name) or f'`{name}={value!r}`'} must be a whole number from {least} on."
            )
    if seed > _LARGEST_SEED:
        raise UsageError(f"`seed={seed}` must be at most {_LARGEST_SEED}.")
    lr = trial.lr
    if lr is not None and (isinstance(lr, bool) or not isinstance(lr, int | float) or not math.isfinite(lr) or lr <= 0):
        raise UsageError(f"{trial.written.get('lr') or f'`lr={lr!r}`'} must be a finite number above 0.")


def _device(trial: Trial) -> torch.device | None:
    if trial.device is None:
        return None
    quoted = trial.written.get("device") or f"`device={str(trial.device)!r}`"
    try:
        device = torch.device(trial.device)
    except (RuntimeError, TypeError):
        raise UsageError(f"{quoted} is no device of torch; known are cpu, cuda, cuda:0, mps.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if not count:
            why = "finds no GPU" if torch.backends.cuda.is_built() else "is built without CUDA"
            raise UsageError(f"{quoted}: torch {torch.__version__} {why}; train on the CPU: {_cpu(trial)}.")
        if device.index is not None and device.index >= count:
            raise UsageError(f"{quoted}: there {'is' if count == 1 else 'are'} {count}, counted from cuda:0 on.")
    try:
        torch.ones(1, device=device).item()
    except Exception as error:  # what a backend that is not there raises is its own affair
        reason = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0].rstrip(".")
        raise UsageError(f"{quoted} cannot be computed on ({reason}); train on the CPU: {_cpu(trial)}.") from None
    return device


def _cpu(trial: Trial) -> str:
    written = trial.written.get("device", "")
    return "`--device cpu`" if written.startswith("`--") else '`device = "cpu"`' if written else '`device="cpu"`'


def _seed(seed: int) -> None:
    """Seeds what random numbers come from: Python, torch and numpy."""
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)

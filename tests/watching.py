"""The same training, bare and watched: what must not differ, and what must have been seen."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_hooks
from torch.utils.hooks import RemovableHandle

import gradscope
from gradscope import Scope, Trace


@dataclass
class Training:
    """A model and what one step does with it.

    Attributes:
        step: The n-th step: forward, backward, update. Its loss, or what else it leaves behind.
        optimizers: Those that are attached; all of them.
        recorded: How many steps of the recording one step makes: with a forward between them, each optimizer's own.
        all_seen: Whether every gradient can be seen.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    step: Callable[[int], Tensor | str]
    recorded: int = 1
    all_seen: bool = True


class Table(dict[str, Callable[[], Training]]):
    """Functions that make a training, by their names."""

    def add(self, make: Callable[[], Training]) -> Callable[[], Training]:
        """Puts one in, as a decorator."""
        self[make.__name__.replace("_", " ")] = make
        return make


@dataclass
class Course:
    """What a training has left behind.

    Attributes:
        left: Losses, parameters, buffers and states of generators, as bytes.
        gradients: Norm of each parameter's gradient when its optimizer stepped, by name, in each step; None where
            autograd gave none.
        ran: Leaves that returned a tensor of numbers in a forward of the training.
        hooks: How many hooks of each kind there are after the training.
    """

    left: dict[str, bytes]
    gradients: list[dict[str, float | None]]
    ran: set[str]
    hooks: dict[str, int]
    training: Training
    scope: Scope | None = field(default=None)

    @property
    def trace(self) -> Trace:
        assert self.scope is not None
        return self.scope.trace


def course(make: Callable[[], Training], *, watched: bool, steps: int = 3) -> Course:
    """Runs a training from the same seed, with gradscope attached or with others' hooks that look on."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    since = RemovableHandle.next_id
    training = make()
    model = training.model
    parts = list(parts_of(model).items())  # those that a step replaces must be clean too
    scope = gradscope.attach(model, optimizer=training.optimizers) if watched else None
    gradients: list[dict[str, float | None]] = []
    ran: set[str] = set()
    losses = []
    with ExitStack() as listening:
        if not watched:
            look = _norms(model, gradients, training.recorded > 1)
            for optimizer in training.optimizers:
                listening.callback(optimizer.register_step_pre_hook(look).remove)
            listening.callback(module_hooks.register_module_forward_hook(_leaves(model, ran)).remove)
        for step in range(steps):
            if training.recorded == 1:
                gradients.append({})
            losses.append(bits(training.step(step)))  # its graph must not outlive the step
    if scope is not None:
        scope.detach()
    left = {f"loss {i}": loss for i, loss in enumerate(losses)}
    left |= {name: bits(p) for name, p in _parameters(model).items()}
    left |= {
        f"{name}.{key}": bits(b)
        for name, m in _modules(model).items()
        for key, b in m._buffers.items()
        if b is not None
    }
    left["torch's generator"] = bits(torch.get_rng_state())
    left["numpy's generator"] = np.random.get_state()[1].tobytes()  # type: ignore[index]
    left["python's generator"] = repr(random.getstate()).encode()
    hooked = dict(hooks([*parts, *parts_of(model).items()], training.optimizers, since))
    return Course(left, gradients, ran, hooked, training, scope)


def _norms(model: nn.Module, gradients: list[dict[str, float | None]], each: bool) -> Callable[..., None]:
    names: dict[Tensor, str] = {p: name for name, p in _parameters(model).items()}  # a name is kept for good

    def look(optimizer: Optimizer, args: object, kwargs: object) -> None:
        if each:
            gradients.append({})
        for name, p in _parameters(model).items():
            names.setdefault(p, name)
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad and p in names:
                    grad = p.grad if p.grad is None or not p.grad.is_sparse else p.grad.coalesce().values()
                    norm = None if grad is None else float(torch.linalg.vector_norm(grad.detach().abs().double()))
                    gradients[-1][names[p]] = norm

    return look


def _leaves(model: nn.Module, ran: set[str]) -> Callable[..., None]:
    leaves = {
        id(module): name
        for name, module in _modules(model).items()
        if not module._modules and "parametrizations" not in name.split(".")
    }

    def look(module: nn.Module, args: object, output: object) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            if (
                id(module) in leaves
                and torch.is_grad_enabled()
                and type(output) is Tensor
                and output.is_floating_point()
            ):
                ran.add(leaves[id(module)])

    return look


def bits(x: Tensor | str) -> bytes:
    """Every bit of a tensor, NaN's too."""
    if isinstance(x, str):
        return x.encode()
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


def parts_of(model: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """Modules and parameters by name, each once, whatever the model's classes say of them."""
    found: dict[str, nn.Module | nn.Parameter] = {}
    seen: set[int] = set()

    def walk(name: str, module: nn.Module) -> None:
        seen.add(id(module))
        found[name] = module
        for kept in (module._parameters, module._modules):
            for child, part in kept.items():
                below = f"{name}.{child}".lstrip(".")
                if isinstance(part, nn.Module) and id(part) not in seen:
                    walk(below, part)
                elif isinstance(part, nn.Parameter) and id(part) not in seen:
                    seen.add(id(part))
                    found[below] = part

    walk("", model)
    return found


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: part for name, part in parts_of(model).items() if not isinstance(part, nn.Module)}


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: part for name, part in parts_of(model).items() if isinstance(part, nn.Module)}


def hooks(
    parts: Iterable[tuple[str, nn.Module | nn.Parameter]], optimizers: list[Optimizer], since: int
) -> Iterator[tuple[str, int]]:
    """How many hooks there are, of each kind, on everything; and what instances have been given beside.

    Of torch's global ones those count that have been placed `since`: others may still go at any time.
    """
    for number, (name, part) in enumerate(parts):
        if isinstance(part, nn.Module):
            for attribute, value in vars(part).items():
                counts = attribute.endswith(("_hooks", "_kwargs", "_called"))
                yield f"{number} {name}.{attribute}", len(value) if counts else 0
        else:
            for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
                yield f"{number} {name}.{attribute}", len(getattr(part, attribute, None) or ())
    for index, optimizer in enumerate(optimizers):
        for attribute, value in vars(optimizer).items():
            if attribute.endswith("_hooks"):
                yield f"optimizer {index}.{attribute}", len(value)
    for where in (module_hooks, optimizer_hooks):
        for attribute, value in vars(where).items():
            if attribute.startswith("_global_") and attribute.endswith("_hooks"):
                yield attribute, sum(number >= since for number in value)


def assert_undisturbed(make: Callable[[], Training], *, steps: int = 3) -> tuple[Course, Course]:
    """Trains bare and watched: not a bit differs, nothing of gradscope's has failed, nothing is left."""
    bare, watched = course(make, watched=False, steps=steps), course(make, watched=True, steps=steps)
    assert watched.left.keys() == bare.left.keys()
    assert [name for name, value in bare.left.items() if watched.left[name] != value] == []
    assert watched.hooks == bare.hooks
    assert [event for event in watched.trace.events if event.kind == "probe-failed"] == []
    watched.scope.diagnose()  # type: ignore[union-attr]
    return bare, watched


def assert_harmless(make: Callable[[], Training], *, steps: int = 3, exact: bool = True) -> Course:
    """`assert_undisturbed`, and each activation and each gradient was seen.

    With `exact` the gradients' norms are compared too: nothing changes them between backward and the optimizer.
    """
    bare, watched = assert_undisturbed(make, steps=steps)
    trace = watched.trace
    if bare.training.all_seen:
        assert list(trace.steps)[: len(bare.gradients)] == list(range(len(bare.gradients)))  # a broken one may follow
        assert_gradients_seen(trace, bare.gradients, exact=exact)
        assert sorted(bare.ran - {site.module for site in trace.by_depth("output", "rms")[0]}) == []
    return watched


def assert_gradients_seen(trace: Trace, gradients: list[dict[str, float | None]], *, exact: bool) -> None:
    """Every gradient that autograd gave has been recorded, and none that it did not give."""
    sites, norms = trace.by_depth("weight_grad", "l2_norm")
    _, numbers = trace.by_depth("weight_grad", "numel")
    columns = {f"{site.module}.{site.name}".lstrip("."): i for i, site in enumerate(sites)}
    for step, expected in enumerate(gradients):
        for name, norm in expected.items():
            seen = name in columns and not np.isnan(numbers[step, columns[name]])
            where = f"step {step}: the gradient of {name}"
            if norm is None:
                assert not seen, f"{where} was recorded, there is none"
                continue
            assert seen, f"{where} was not observed"
            if exact and np.isfinite(norm):
                found = float(norms[step, columns[name]])
                assert abs(found - norm) <= 1e-4 * norm + 1e-30, f"{where}: {found} recorded, {norm} is right"

"""The same training, bare and watched: what must not differ, and what must have been seen."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_hooks

import gradscope
from gradscope import Scope, Trace


@dataclass
class Training:
    """A model and what one step does with it.

    Attributes:
        step: The n-th step: forward, backward, update. Its loss.
        optimizers: Those that are attached; all of them.
        recorded: How many steps of the recording one step makes: with a forward between them, each optimizer's own.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    step: Callable[[int], Tensor]
    recorded: int = 1


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
    training = make()
    model = training.model
    scope = gradscope.attach(model, optimizer=training.optimizers) if watched else None
    gradients: list[dict[str, float | None]] = []
    ran: set[str] = set()
    losses = []
    with ExitStack() as listening:
        if not watched:
            names = {id(p): name for name, p in model.named_parameters()}
            for optimizer in training.optimizers:
                listening.callback(
                    optimizer.register_step_pre_hook(_norms(names, gradients, training.recorded > 1)).remove
                )
            listening.callback(module_hooks.register_module_forward_hook(_leaves(model, ran)).remove)
        for step in range(steps):
            if training.recorded == 1:
                gradients.append({})
            losses.append(training.step(step))
    if scope is not None:
        scope.detach()
    left = {f"loss {i}": bits(loss) for i, loss in enumerate(losses)}
    left |= {name: bits(p) for name, p in nn.Module.named_parameters(model)}
    left |= {name: bits(b) for name, b in nn.Module.named_buffers(model)}
    left["torch's generator"] = bits(torch.get_rng_state())
    left["numpy's generator"] = np.random.get_state()[1].tobytes()  # type: ignore[index]
    left["python's generator"] = repr(random.getstate()).encode()
    return Course(left, gradients, ran, dict(hooks(model, training.optimizers)), scope)


def _norms(names: Mapping[int, str], gradients: list[dict[str, float | None]], each: bool) -> Callable[..., None]:
    def look(optimizer: Optimizer, args: object, kwargs: object) -> None:
        if each:
            gradients.append({})
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    grad = p.grad if p.grad is None or not p.grad.is_sparse else p.grad.coalesce().values()
                    norm = None if grad is None else float(torch.linalg.vector_norm(grad.detach().abs().double()))
                    gradients[-1][names[id(p)]] = norm

    return look


def _leaves(model: nn.Module, ran: set[str]) -> Callable[..., None]:
    leaves = {
        id(module): name
        for name, module in nn.Module.named_modules(model)
        if not module._modules and "parametrizations" not in name.split(".")
    }

    def look(module: nn.Module, args: object, output: object) -> None:
        if (
            id(module) in leaves
            and torch.is_grad_enabled()
            and isinstance(output, Tensor)
            and output.is_floating_point()
        ):
            ran.add(leaves[id(module)])

    return look


def bits(x: Tensor) -> bytes:
    """Every bit of a tensor, NaN's too."""
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""


def hooks(model: nn.Module, optimizers: list[Optimizer]) -> Iterator[tuple[str, int]]:
    """How many hooks there are, of each kind, on everything; and what instances have been given beside."""
    for name, module in nn.Module.named_modules(model):
        for attribute, value in vars(module).items():
            yield f"{name}.{attribute}", len(value) if attribute.endswith(("_hooks", "_kwargs", "_called")) else 0
    for name, parameter in nn.Module.named_parameters(model):
        for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
            yield f"{name}.{attribute}", len(getattr(parameter, attribute, None) or ())
    for index, optimizer in enumerate(optimizers):
        for attribute, value in vars(optimizer).items():
            if attribute.endswith("_hooks"):
                yield f"optimizer {index}.{attribute}", len(value)
    for where in (module_hooks, optimizer_hooks):
        for attribute, value in vars(where).items():
            if attribute.startswith("_global_") and attribute.endswith("_hooks"):
                yield attribute, len(value)


def assert_harmless(make: Callable[[], Training], *, steps: int = 3, exact: bool = True) -> Course:
    """Trains bare and watched: not a bit differs, no probe failed, each gradient was seen, nothing is left.

    With `exact` the gradients' norms are compared too: nothing changes them between backward and the optimizer.
    """
    bare, watched = course(make, watched=False, steps=steps), course(make, watched=True, steps=steps)
    assert watched.left.keys() == bare.left.keys()
    assert [name for name, value in bare.left.items() if watched.left[name] != value] == []
    assert watched.hooks == bare.hooks
    trace = watched.trace
    assert [event for event in trace.events if event.kind == "probe-failed"] == []
    assert list(trace.steps) == list(range(len(bare.gradients)))
    assert_gradients_seen(trace, bare.gradients, exact=exact)
    assert sorted(bare.ran - {site.module for site in trace.by_depth("output", "rms")[0]}) == []
    watched.scope.diagnose()  # type: ignore[union-attr]
    return watched


def assert_gradients_seen(trace: Trace, gradients: list[dict[str, float | None]], *, exact: bool) -> None:
    """Every gradient that autograd gave has been recorded, and none that it did not give."""
    sites, norms = trace.by_depth("weight_grad", "l2_norm")
    columns = {f"{site.module}.{site.name}".lstrip("."): i for i, site in enumerate(sites)}
    for step, expected in enumerate(gradients):
        for name, norm in expected.items():
            seen = float(norms[step, columns[name]]) if name in columns else float("nan")
            where = f"step {step}: the gradient of {name}"
            if norm is None:
                assert np.isnan(seen), f"{where} was recorded as {seen}, there is none"
            else:
                assert not np.isnan(seen), f"{where} was not observed"
                if exact:
                    assert abs(seen - norm) <= 1e-4 * norm + 1e-30, f"{where}: {seen} recorded, {norm} is right"

"""Measurements by which cases prove their fault, and labels of consequences that many share."""

import re
from collections.abc import Callable
from typing import Any

import torch
from corpus.case import Case, also, autocast_of, gradient_rms, gradients, one_step, prepare, rms, train
from torch import Tensor, nn

STALLS = (also("loss-stall"), also("update-too-small"), also("vanishing-gradient"))
BLOWN = (
    also("exploding-gradient"),
    also("forward-variance-explosion"),
    also("non-finite"),
    also("loss-divergence"),
    also("loss-stall"),
    also("update-too-large"),
    also("dead-units"),
    also("saturation"),
)
BLOCKED = (
    also("vanishing-gradient"),
    also("no-gradient"),
    also("constant-output"),
    also("forward-variance-collapse"),
    also("loss-stall"),
    also("update-too-small"),
)

Verify = Callable[[Case], dict[str, Any]]


def outputs(case: Case, *names: str, model: nn.Module | None = None, step: int = 0) -> list[Tensor]:
    """What the modules of these names return in one forward pass, with its graph; the last call of each counts."""
    if model is None:
        model, _ = prepare(case)
    seen: dict[str, Tensor] = {}
    for name in names:
        module = model.get_submodule(name)

        def recording(*args: Any, _plain: Any = module.forward, _name: str = name, **options: Any) -> Any:
            out = _plain(*args, **options)
            seen[_name] = out[0] if isinstance(out, tuple) else out
            return out

        module.forward = recording
    torch.manual_seed(case.seed + 1)
    with autocast_of(case):
        case.loss(model, case.batch(step))
    for name in names:
        del model.get_submodule(name).forward
    return [seen[name] for name in names]


def gradient_ratio(first: str, last: str, *, below: float | None = None, above: float | None = None) -> Verify:
    """Of the weights' gradients in `first` to those in `last`, at the start."""

    def verify(case: Case) -> dict[str, Any]:
        found = gradients(case)[1]
        ratio = gradient_rms(found, first) / max(gradient_rms(found, last), 1e-300)
        return {"first_over_last": ratio, "sick": ratio < below if below is not None else not ratio < (above or 0.0)}

    return verify


def spread(values: Tensor) -> float:
    """Of a unit over the samples: the mean standard deviation."""
    return float(values.detach().double().flatten(1).std(0).mean())


def spread_ratio(first: str, last: str, *, below: float | None = None, above: float | None = None) -> Verify:
    """Of the spread of the output of `last` to that of `first`, at the start."""

    def verify(case: Case) -> dict[str, Any]:
        a, b = (spread(out) for out in outputs(case, first, last))
        return {"first": a, "last": b, "sick": b < below * a if below is not None else not b < (above or 0.0) * a}

    return verify


def through_time(*, last: int = -1, below: float | None = None, above: float | None = None) -> Verify:
    """Of |∂L/∂x| at the first moment to that at `last`; the input is batch × time × features."""

    def verify(case: Case) -> dict[str, Any]:
        model, _ = prepare(case)
        x, *rest = case.batch(0)
        x = x.clone().requires_grad_()
        (given,) = torch.autograd.grad(case.loss(model, (x, *rest)), x)
        ratio = rms(given[:, 0]) / max(rms(given[:, last]), 1e-300)
        return {"first_over_last": ratio, "sick": ratio < below if below is not None else not ratio < (above or 0.0)}

    return verify


def share_of(name: str, test: Callable[[Tensor], Tensor], *, above: float, after: int = 0) -> Verify:
    """The share of units (the last dimension, or channels) for which `test` is true of every sample."""

    def verify(case: Case) -> dict[str, Any]:
        model = train(case, steps=after)[0] if after else None
        (out,) = outputs(case, name, model=model, step=after)
        out = out.detach()
        units = out.movedim(1, -1).flatten(0, -2) if out.dim() == 4 else out.flatten(0, -2)
        share = float(test(units).all(0).double().mean())
        return {"share": share, "sick": share > above}

    return verify


def becomes_nan(case: Case) -> dict[str, Any]:
    """The first step whose loss or weights are not finite."""
    model, optimizer = prepare(case)
    torch.manual_seed(case.seed + 1)
    for step in range(case.steps):
        loss = one_step(case, model, optimizer, step)
        if not all(bool(p.isfinite().all()) for p in model.parameters()) or loss != loss or abs(loss) == float("inf"):
            return {"first_bad_step": step, "sick": True}
    return {"first_bad_step": None, "sick": False}


def no_gradient(pattern: str) -> Verify:
    """All gradients of those parameters are missing or exactly zero, while others are not."""

    def verify(case: Case) -> dict[str, Any]:
        found = gradients(case)[1]
        here, all_of_them = gradient_rms(found, pattern), gradient_rms(found, "")
        return {"here": here, "all": all_of_them, "sick": here == 0.0 and all_of_them > 0.0}

    return verify


def update_ratio(
    pattern: str, *, below: float | None = None, above: float | None = None, at: int = 0, steps: int = 1
) -> Verify:
    """‖Δw‖ / ‖w‖ of the weights that `pattern` finds, over `steps` steps from step `at`."""

    def verify(case: Case) -> dict[str, Any]:
        model, optimizer = prepare(case)
        torch.manual_seed(case.seed + 1)
        for step in range(at):
            one_step(case, model, optimizer, step)
        before = chosen(model, pattern)
        for step in range(at, at + steps):
            one_step(case, model, optimizer, step)
        ratio = float((chosen(model, pattern) - before).norm() / before.norm())
        return {"ratio": ratio, "sick": ratio < below if below is not None else not ratio < (above or 0.0)}

    return verify


def chosen(model: nn.Module, pattern: str) -> Tensor:
    """A copy of the parameters whose name `pattern` finds, as one vector."""
    parts = [p.detach().double().flatten() for n, p in model.named_parameters() if re.search(pattern, n)]
    return torch.cat(parts).clone()

"""Trainings that treat gradients and the structure of a watched model as they like."""

import contextlib
import gc
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch_models import beside, data, loss_of, small, trained
from watching import Table, Training

TRAINING = Table()


# ---------------------------------------------------------------- gradients


@TRAINING.add
def gradients_are_zeroed_and_kept() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad(set_to_none=number % 2 == 0)
        loss = loss_of(model, number)
        loss.backward()
        optimizer.step()
        return loss

    return Training(model, [optimizer], step)


@TRAINING.add
def a_graph_is_kept_and_gone_through_twice() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, number)
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
        return loss

    return Training(model, [optimizer], step)


@TRAINING.add
def a_penalty_on_the_gradient() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        x = data(step, 3, 4).requires_grad_()
        y = model(x).sum()
        (slope,) = torch.autograd.grad(y, x, create_graph=True)
        return y.square() + (slope.norm() - 1).square()

    return trained(model, both)


@TRAINING.add
def a_backward_that_can_be_differentiated() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it makes a cycle
            loss.backward(create_graph=True)
        penalty = sum(p.grad.square().sum() for p in model.parameters())
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        gc.collect()
        return loss

    return Training(model, [optimizer], step)


@TRAINING.add
def gradients_are_made_by_hand() -> Training:
    """No forward, no backward: nothing begins a step."""
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> str:
        for p in model.parameters():
            p.grad = torch.randn_like(p) if number else torch.zeros_like(p).to_sparse().to_dense()
        optimizer.step()
        return ""

    return Training(model, [optimizer], step, all_seen=False)


@TRAINING.add
def gradients_are_taken_and_set_by_hand() -> Training:
    """`autograd.grad` runs no hook on a parameter's gradient."""
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        loss = loss_of(model, number)
        for p, grad in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.grad = grad
        optimizer.step()
        return loss

    return Training(model, [optimizer], step, all_seen=False)


@TRAINING.add
def schedulers_and_optimizers_of_other_kinds() -> Training:
    model = small()
    first = torch.optim.Adam(model[0].parameters(), lr=1e-2, foreach=False, amsgrad=True)
    second = torch.optim.SGD(model[3].parameters(), lr=1e-2, momentum=0.9, nesterov=True, fused=True)
    warmup = torch.optim.lr_scheduler.LambdaLR(first, lambda step: 0.5**step)

    def step(number: int) -> Tensor:
        loss = loss_of(model, number)
        loss.backward()
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()
        warmup.step()
        return loss

    return Training(model, [first, second], step)


class _Refuses(torch.optim.SGD):
    """Raises after it has stepped."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        raise ArithmeticError("after the step")


@TRAINING.add
def an_optimizer_that_raises() -> Training:
    model = small()
    optimizer = _Refuses(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, number)
        loss.backward()
        with contextlib.suppress(ArithmeticError):
            optimizer.step()
        return loss

    return Training(model, [optimizer], step)


@TRAINING.add
def an_anomaly_is_looked_for() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("ignore")  # that it is slow
            loss = loss_of(model, step)
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            return loss

    return trained(model, both)


# ---------------------------------------------------------------- structure


@TRAINING.add
def modules_come_and_go() -> Training:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        if step == 1:
            model.append(nn.Linear(4, 4))
            optimizer.add_param_group({"params": list(model[3].parameters())})
        if step == 2:
            del model[1]
            model[0] = nn.Linear(4, 4)
            optimizer.param_groups[0]["params"][:2] = list(model[0].parameters())
        return loss_of(model, step)

    return trained(model, both, optimizer)


@TRAINING.add
def parameters_are_replaced() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        model[0].weight.data = model[0].weight.data * 0.5
        if step == 1:
            model[0].weight = nn.Parameter(model[0].weight.detach() + 1)
            optimizer.param_groups[0]["params"][0] = model[0].weight
            del model[3].bias
            model[3].bias = None
        return loss_of(model, step)

    return trained(model, both, optimizer)


@TRAINING.add
def layers_are_frozen_and_thawed() -> Training:
    return beside(lambda model, step: model[0].requires_grad_(step % 2 == 1))


@TRAINING.add
def layers_are_pruned_and_parametrized() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        if step == 1:
            prune.random_unstructured(model[0], "weight", 0.5)
            parametrize.register_parametrization(model[3], "weight", nn.Tanh())
        if step == 2:
            prune.remove(model[0], "weight")
            parametrize.remove_parametrizations(model[3], "weight")
        return loss_of(model, step)

    return trained(model, both, optimizer)


@TRAINING.add
def layers_grow() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        optimizer.zero_grad()
        model[0].weight.data = torch.ones(6 + step, 4)
        model[0].bias.data = torch.ones(6 + step)
        model[3].weight.data = torch.ones(2, 6 + step)
        return loss_of(model, step)

    return trained(model, both, optimizer)


@TRAINING.add
def the_model_changes_its_type() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    dtypes = (torch.float32, torch.float64, torch.bfloat16)

    def both(step: int) -> Tensor:
        optimizer.zero_grad()
        model.to(dtypes[step])
        return model(data(step, 3, 4).to(dtypes[step])).square().mean()

    return trained(model, both, optimizer)


@TRAINING.add
def the_model_is_swapped_for_one_of_another_type() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.zero_grad()
            model.double().float()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    training = beside(act)
    training.all_seen = False  # torch leaves the hooks on the parameters' gradients behind
    return training


@TRAINING.add
def optimizers_that_step_in_the_backward() -> Training:
    """One for each parameter, which saves the memory of the gradients."""
    model = small()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step_at_once(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step_at_once)

    def step(number: int) -> Tensor:
        loss = loss_of(model, number)
        loss.backward()
        return loss

    return Training(model, list(optimizers.values()), step)

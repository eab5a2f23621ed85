"""Errors in a watched model, and the hooks of others."""

import torch
from torch import Tensor, nn
from torch_models import beside, loss_of, small, squares, trained
from watching import Table, Training

ACCIDENTS = Table()


# ---------------------------------------------------------------- errors


class _Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        raise ArithmeticError("in the backward")


class _Fragile(nn.Module):
    """Raises in every second call: before it has computed anything, after it, or in the backward."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.fc, self.where, self.calls = nn.Linear(6, 6), where, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 2:
            return self.fc(x)
        if self.where == "backward":
            return _Breaks.apply(self.fc(x))
        y = self.fc(x) if self.where == "after" else x
        raise KeyboardInterrupt("in the forward") if self.where == "interrupt" else ArithmeticError(f"{y.shape}")


def _going_on(where: str) -> Training:
    """Errors are caught, and the training goes on with the next batch."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), _Fragile(where), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def attempt(number: int) -> str:
        optimizer.zero_grad()
        try:
            loss = loss_of(model, number)
            loss.backward()
        except (ArithmeticError, KeyboardInterrupt) as error:
            return f"{type(error).__name__} {error}"
        optimizer.step()
        return loss.item().hex()

    def step(number: int) -> str:
        return f"{attempt(number)} {attempt(number + 10)}"

    return Training(model, [optimizer], step)


@ACCIDENTS.add
def errors_before_a_forward() -> Training:
    return _going_on("before")


@ACCIDENTS.add
def errors_after_a_forward() -> Training:
    return _going_on("after")


@ACCIDENTS.add
def errors_in_the_backward() -> Training:
    return _going_on("backward")


@ACCIDENTS.add
def interrupts_in_the_forward() -> Training:
    return _going_on("interrupt")


@ACCIDENTS.add
def errors_in_the_hooks_of_others() -> Training:
    training = _going_on("never")
    fragile = training.model[2]
    fragile.forward = fragile.fc.forward

    def hook(module: nn.Module, args: object, y: Tensor) -> None:
        module.calls += 1
        if module.calls % 2 == 0:
            raise ArithmeticError("in a hook")

    fragile.register_forward_hook(hook)
    return training


@ACCIDENTS.add
def gradients_that_are_not_finite() -> Training:
    return beside(lambda model, step: model[3].bias.data.fill_(float("nan" if step == 1 else "inf")))


# ---------------------------------------------------------------- the hooks of others


@ACCIDENTS.add
def hooks_that_remove_themselves() -> Training:
    model = small()

    def act(step: int) -> Tensor:
        handles = []

        def once(*given: object) -> None:
            handles.pop().remove()

        handles.append(model[0].register_forward_hook(once))
        handles.append(model[1].register_forward_pre_hook(once))
        handles.append(model[3].register_full_backward_hook(once))
        return loss_of(model, step)

    return trained(model, act)


@ACCIDENTS.add
def hooks_that_place_hooks() -> Training:
    model = small()

    def place(module: nn.Module, args: object, y: Tensor) -> None:
        handle = module.register_forward_hook(lambda module, args, y: handle.remove() or y * 2)

    model[0].register_forward_hook(place)
    return squares(model, 3, 4)


@ACCIDENTS.add
def all_hooks_are_thrown_away() -> Training:
    """Gradscope's too; what it then no longer sees it cannot record, but it must not trip over that."""

    def act(model: nn.Sequential, step: int) -> None:
        if step == 2:
            for module in model.modules():
                module._forward_hooks.clear()
                module._forward_pre_hooks.clear()

    return beside(act)


@ACCIDENTS.add
def hooks_on_everything() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        from torch.nn.modules.module import register_module_forward_hook

        with register_module_forward_hook(lambda module, args, y: y * 1.1 if isinstance(module, nn.Linear) else None):
            return loss_of(model, step)

    return trained(model, both)

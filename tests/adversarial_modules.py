"""Modules that are called in odd ways, or are not what they seem."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch_models import data, squares, trained
from watching import Table, Training

MODULES = Table()


# ---------------------------------------------------------------- calls


class Recursive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, depth: int = 4) -> Tensor:
        return self.fc(x if depth == 0 else self(x, depth - 1)).tanh()


@MODULES.add
def a_model_that_calls_itself() -> Training:
    return squares(Recursive(), 3, 4)


class Leaf(nn.Module):
    """A leaf that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor, depth: int = 3) -> Tensor:
        return x @ self.weight if depth == 0 else self(x * 0.9, depth=depth - 1) @ self.weight


@MODULES.add
def a_leaf_that_calls_itself() -> Training:
    return squares(nn.Sequential(nn.Linear(4, 4), Leaf()), 3, 4)


class Parent(nn.Module):
    """A child that knows its parent and calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.child = nn.Linear(4, 4), Child()
        object.__setattr__(self.child, "parent", self)

    def forward(self, x: Tensor, again: bool = True) -> Tensor:
        return self.child(self.fc(x)) if again else self.fc(x)


class Child(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.parent(x, False).tanh()  # type: ignore[operator]


@MODULES.add
def a_child_that_calls_its_parent() -> Training:
    return squares(Parent(), 3, 4)


class Cycle(nn.Module):
    """A module that is its own grandchild."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.inner = nn.Module()
        self.inner.outer = self

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.outer.fc(x)  # type: ignore[union-attr, operator]


@MODULES.add
def a_model_that_contains_itself() -> Training:
    return squares(Cycle(), 3, 4)


class Direct(nn.Module):
    """Calls its children past their hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.one.forward(x), self.two.weight, self.two.bias)


@MODULES.add
def a_model_whose_modules_are_called_past_their_hooks() -> Training:
    return squares(Direct(), 3, 4)


# ---------------------------------------------------------------- modules that are not what they seem


class Elusive(nn.Module):
    """Answers for attributes that it does not have, counts as empty, equals nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def __getattr__(self, name: str) -> object:
        if name in ("fc",):
            return super().__getattr__(name)
        raise KeyError(name)

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")

    __hash__ = nn.Module.__hash__

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@MODULES.add
def modules_that_are_elusive() -> Training:
    return squares(nn.Sequential(Elusive(), nn.Tanh(), Elusive()), 3, 4)


@MODULES.add
def a_model_that_is_elusive() -> Training:
    return squares(Elusive(), 3, 4)


class Slotted(nn.Module):
    __slots__ = ("gain",)

    def __init__(self) -> None:
        super().__init__()
        self.gain = 0.5
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * self.gain


@MODULES.add
def modules_with_slots() -> Training:
    return squares(nn.Sequential(nn.Linear(4, 4), Slotted()), 3, 4)


class Lying(nn.Module):
    """Its own ideas of what its parts are called."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), nn.Tanh()

    def named_modules(self, *args: object, **kwargs: object) -> Iterator[tuple[str, nn.Module]]:
        raise RuntimeError("secret")

    named_children = named_buffers = children = modules = named_modules  # type: ignore[assignment]

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, object]:
        raise RuntimeError("secret")

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


@MODULES.add
def parts_that_hide_their_own_parts() -> Training:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.lying = Lying()
    optimizer = torch.optim.AdamW([*model[0].parameters(), *model[1].parameters(), *model.lying.fc.parameters()])
    return trained(model, lambda i: model(data(i, 3, 4)).square().mean(), optimizer)


class Uncalled(nn.Module):
    """A `__call__` of its own, around the hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def __call__(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("never called")


@MODULES.add
def a_call_of_its_own() -> Training:
    return squares(nn.Sequential(Uncalled(), nn.Tanh(), Uncalled()), 3, 4)


@MODULES.add
def a_forward_that_is_replaced() -> Training:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    original = model[2].forward
    model[1].forward = lambda x: x.sin()  # type: ignore[method-assign]

    def loss_of(step: int) -> Tensor:
        model[2].forward = lambda x: original(x) * (step + 1)  # type: ignore[method-assign]
        return model(data(step, 3, 4)).square().mean()

    return trained(model, loss_of)


@MODULES.add
def lazy_modules() -> Training:
    return squares(nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(2, bias=False)), 3, 4)


@MODULES.add
def a_lazy_module_that_no_optimizer_moves() -> Training:
    model = nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(4), nn.Tanh(), nn.Linear(4, 2))
    moved = [*model[0].parameters(), *model[3].parameters()]
    return trained(model, lambda i: model(data(i, 3, 4)).square().mean(), torch.optim.AdamW(moved))


class Frozen(nn.Module):
    """Allows no attribute to be set once it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        vars(self)["done"] = True

    def __setattr__(self, name: str, value: object) -> None:
        if "done" in vars(self):
            raise AttributeError("frozen")
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@MODULES.add
def modules_that_cannot_be_changed() -> Training:
    return squares(nn.Sequential(Frozen(), Frozen()), 3, 4)


class Becoming(nn.Linear):
    """Changes its own class when it runs."""

    def forward(self, x: Tensor) -> Tensor:
        self.__class__ = nn.Linear  # type: ignore[assignment]
        return nn.Linear.forward(self, x) * 2


@MODULES.add
def modules_that_become_another_class() -> Training:
    return squares(nn.Sequential(nn.Linear(4, 4), Becoming(4, 4)), 3, 4)


class Coroutine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    async def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Awaiting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source = Coroutine()

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.source(x).send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError("waits for something")


@MODULES.add
def coroutines() -> Training:
    return squares(Awaiting(), 3, 4)


@MODULES.add
def names_with_odd_characters() -> Training:
    model = nn.Sequential()
    for name in ("a/b", "ü \n", "%s", "0 "):
        model.add_module(name, nn.Linear(4, 4))
    return squares(model, 3, 4)

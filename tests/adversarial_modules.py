"""Modules that try to trip whoever watches them: each function makes a training."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_models import data, squares, trained
from watching import Training

ADVERSARIES: dict[str, Callable[[], Training]] = {}


def adversary(make: Callable[[], Training]) -> Callable[[], Training]:
    """Puts a training into the table, by its function's name."""
    ADVERSARIES[make.__name__.replace("_", " ")] = make
    return make


class Wrapping(nn.Module):
    """A layer, a module that puts its output into something odd, and a layer that takes the tensor back out."""

    def __init__(self, wrap: Callable[[Tensor], object], unwrap: Callable[[object], Tensor]) -> None:
        super().__init__()
        self.before, self.odd, self.after = nn.Linear(4, 4), Wrapper(wrap), nn.Linear(4, 2)
        self.unwrap = unwrap

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.unwrap(self.odd(self.before(x))))


class Wrapper(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(x)


def wrapped(wrap: Callable[[Tensor], object], unwrap: Callable[[object], Tensor]) -> Training:
    """A training of `Wrapping`."""
    return squares(Wrapping(wrap, unwrap), 3, 4)


# ---------------------------------------------------------------- outputs


class Costly(Mapping[str, Tensor]):
    """Computes its items when they are asked for, and draws random numbers for it."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __getitem__(self, key: str) -> Tensor:
        if key == "broken":
            raise ValueError(key)
        return self.x + torch.rand(())

    def __iter__(self) -> Iterator[str]:
        return iter(("x", "broken"))

    def __len__(self) -> int:
        raise TypeError("endless")


@adversary
def a_mapping_whose_items_cost_and_raise() -> Training:
    return wrapped(Costly, lambda given: given["x"])  # type: ignore[index]


class Overridden(dict[str, Tensor]):
    def __getitem__(self, key: str) -> Tensor:
        return super().__getitem__(key) + torch.rand(())

    def items(self) -> object:  # type: ignore[override]
        raise ValueError("ask for each")

    __iter__ = keys = values = items  # type: ignore[assignment]


@adversary
def a_dictionary_that_overrides_everything() -> Training:
    return wrapped(lambda x: Overridden(x=x), lambda given: given["x"])  # type: ignore[index]


class Refusing:
    """Raises whatever it is asked."""

    def __init__(self, x: Tensor) -> None:
        vars(self)["x"] = x

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __raise(self, *args: object) -> bool:
        raise RuntimeError("asked")

    __eq__ = __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __repr__ = __hash__ = __raise  # type: ignore[assignment]

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("no class")


@adversary
def objects_that_raise_whatever_they_are_asked() -> Training:
    return wrapped(lambda x: [Refusing(x), x, {"a": Refusing(x)}], lambda given: vars_of(given[0])["x"])  # type: ignore[index]


def vars_of(value: object) -> dict[str, Tensor]:
    return object.__getattribute__(value, "__dict__")


class Sulking(list[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")

    __bool__ = __eq__ = __len__  # type: ignore[assignment]


@adversary
def a_list_that_cannot_be_gone_through() -> Training:
    return wrapped(lambda x: Sulking([x]), lambda given: given[0])  # type: ignore[index]


@dataclass
class Unset:
    """A dataclass with a field that was never set, one that is a property, and a method that raises."""

    x: Tensor
    missing: Tensor
    late: Tensor

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)


class _Property:
    def __get__(self, instance: object, owner: type) -> Tensor:
        raise ValueError("not yet")


Unset.late = _Property()  # type: ignore[assignment]


@adversary
def a_dataclass_whose_fields_raise() -> Training:
    return wrapped(Unset, lambda given: given.x)  # type: ignore[attr-defined]


def _endless(x: Tensor) -> list[object]:
    within: list[object] = []
    within.extend([x, within, {"again": within}, (within, within)] * 10)
    return within


@adversary
def a_list_that_contains_itself_forty_times() -> Training:
    return wrapped(_endless, lambda given: given[0])  # type: ignore[index]


@adversary
def a_deep_nest() -> Training:
    def bury(x: Tensor) -> object:
        nest: object = x
        for _ in range(5000):
            nest = [nest]
        return nest

    def dig(nest: object) -> Tensor:
        while isinstance(nest, list):
            nest = nest[0]
        return nest  # type: ignore[return-value]

    return wrapped(bury, dig)


@adversary
def a_huge_list() -> Training:
    return wrapped(lambda x: [x, *range(300_000)], lambda given: given[0])  # type: ignore[index]


@adversary
def a_great_many_tensors() -> Training:
    return wrapped(lambda x: [x, *x.expand(1500, 3, 4)], lambda given: torch.stack(given).sum(0))  # type: ignore[arg-type]


@adversary
def a_tensor_twice_and_its_views() -> Training:
    return wrapped(lambda x: (x, x, x.view(-1), x[0], x.T), lambda given: given[1] + given[2].view(3, 4))  # type: ignore[index]


@adversary
def tensors_of_every_kind() -> Training:
    def wrap(x: Tensor) -> object:
        sparse = x.to_sparse()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it will go some day
            quantized = torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8)
        meta = torch.empty(3, device="meta")
        return (
            x,
            sparse,
            quantized,
            meta,
            x > 0,
            x.argmax(),
            x[:0],
            x.to(torch.float8_e4m3fn),
            x.conj(),
            torch.ones(()),
        )

    return wrapped(wrap, lambda given: given[1].to_dense() + given[0])  # type: ignore[index]


@adversary
def nested_tensors() -> Training:
    def wrap(x: Tensor) -> object:
        return torch.nested.as_nested_tensor(list(x.split([1, 2])), layout=torch.jagged)

    return wrapped(wrap, lambda given: given.values())  # type: ignore[attr-defined]


class Jealous(Tensor):
    """Allows what its training does, and nothing else."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function not in (Tensor.mul, Tensor.__mul__, Tensor.grad_fn.__get__):  # type: ignore[attr-defined]
            raise PermissionError(str(function))
        return super().__torch_function__(function, types, args, kwargs or {})


@adversary
def a_subclass_of_tensors_that_allows_nothing() -> Training:
    def unwrap(given: object) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return (given * 2.0).clone()  # type: ignore[operator]

    return wrapped(lambda x: x.as_subclass(Jealous), unwrap)


class Counting(Tensor):
    """Draws a random number whenever it is used."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        torch.rand(())
        return super().__torch_function__(function, types, args, kwargs or {})


@adversary
def a_subclass_of_tensors_that_draws_random_numbers() -> Training:
    return wrapped(lambda x: x.as_subclass(Counting), lambda given: given.relu().as_subclass(Tensor))  # type: ignore[attr-defined]


# ---------------------------------------------------------------- inputs


class Greedy(nn.Module):
    """Changes what it is given: takes from lists and dictionaries, writes into tensors, drops their storage."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, given: list[Tensor], more: dict[str, Tensor]) -> Tensor:
        y = self.fc(given.pop()) + more.pop("x")
        given.append(None)  # type: ignore[arg-type]
        more["self"] = more  # type: ignore[assignment]
        return y


@adversary
def inputs_that_are_emptied() -> Training:
    model = Greedy()
    return trained(model, lambda i: model([data(i, 3, 4)], more={"x": data(i + 9, 3, 4)}).square().mean())


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), Overwriting()

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x) + 0)


class Overwriting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).unsqueeze_(0)
        x.squeeze_(0).t_().t_()
        y = x.clone()
        x.data = torch.zeros(1)
        return y


@adversary
def inputs_that_are_overwritten_and_reshaped() -> Training:
    return squares(Writer(), 3, 4)


# ---------------------------------------------------------------- calls


class Recursive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, depth: int = 4) -> Tensor:
        return self.fc(x if depth == 0 else self(x, depth - 1)).tanh()


@adversary
def a_model_that_calls_itself() -> Training:
    return squares(Recursive(), 3, 4)


class Leaf(nn.Module):
    """A leaf that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor, depth: int = 3) -> Tensor:
        return x @ self.weight if depth == 0 else self(x * 0.9, depth=depth - 1) @ self.weight


@adversary
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


@adversary
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


@adversary
def a_model_that_contains_itself() -> Training:
    return squares(Cycle(), 3, 4)


class Direct(nn.Module):
    """Calls its children past their hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.one.forward(x), self.two.weight, self.two.bias)


@adversary
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


@adversary
def modules_that_are_elusive() -> Training:
    return squares(nn.Sequential(Elusive(), nn.Tanh(), Elusive()), 3, 4)


@adversary
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


@adversary
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


@adversary
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


@adversary
def a_call_of_its_own() -> Training:
    return squares(nn.Sequential(Uncalled(), nn.Tanh(), Uncalled()), 3, 4)


@adversary
def a_forward_that_is_replaced() -> Training:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    original = model[2].forward
    model[1].forward = lambda x: x.sin()  # type: ignore[method-assign]

    def loss_of(step: int) -> Tensor:
        model[2].forward = lambda x: original(x) * (step + 1)  # type: ignore[method-assign]
        return model(data(step, 3, 4)).square().mean()

    return trained(model, loss_of)

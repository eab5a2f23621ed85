"""Modules whose inputs and outputs try to trip whoever looks at them."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_models import data, squares, trained
from watching import Table, Training

DATA = Table()


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


@DATA.add
def a_mapping_whose_items_cost_and_raise() -> Training:
    return wrapped(Costly, lambda given: given["x"])  # type: ignore[index]


class Overridden(dict[str, Tensor]):
    def __getitem__(self, key: str) -> Tensor:
        return super().__getitem__(key) + torch.rand(())

    def items(self) -> object:  # type: ignore[override]
        raise ValueError("ask for each")

    __iter__ = keys = values = items  # type: ignore[assignment]


@DATA.add
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


@DATA.add
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


@DATA.add
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


@DATA.add
def a_dataclass_whose_fields_raise() -> Training:
    return wrapped(Unset, lambda given: given.x)  # type: ignore[attr-defined]


def _endless(x: Tensor) -> list[object]:
    within: list[object] = []
    within.extend([x, within, {"again": within}, (within, within)] * 10)
    return within


@DATA.add
def a_list_that_contains_itself_forty_times() -> Training:
    return wrapped(_endless, lambda given: given[0])  # type: ignore[index]


@DATA.add
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


@DATA.add
def a_huge_list() -> Training:
    return wrapped(lambda x: [x, *range(300_000)], lambda given: given[0])  # type: ignore[index]


@DATA.add
def a_great_many_tensors() -> Training:
    return wrapped(lambda x: [x, *x.expand(1500, 3, 4)], lambda given: torch.stack(given).sum(0))  # type: ignore[arg-type]


@DATA.add
def a_tensor_twice_and_its_views() -> Training:
    return wrapped(lambda x: (x, x, x.view(-1), x[0], x.T), lambda given: given[1] + given[2].view(3, 4))  # type: ignore[index]


@DATA.add
def tensors_of_every_kind() -> Training:
    def wrap(x: Tensor) -> object:
        alone = x.detach()
        freed = alone.clone()
        freed.untyped_storage().resize_(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some will go some day, and that others are new
            odd = [
                torch.quantize_per_tensor(alone, 0.1, 0, torch.qint8),
                torch.masked.masked_tensor(alone, alone > 0),
                torch.nested.as_nested_tensor(list(x.split([1, 2])), layout=torch.strided),
                x.to_sparse_csr(),
                x.to(torch.complex32),
            ]
        floats = [alone.to(dtype) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)]
        more = [torch._neg_view(alone), x.conj(), torch.ones(()), x[:0], x[0, 0].expand(4096, 64)]
        whole = [x > 0, x.argmax(), torch.ones(2, dtype=torch.uint16), torch.empty(3, device="meta"), freed]
        return (x, x.to_sparse(), Closed(x), nn.Parameter(torch.ones(3)), odd, floats, more, whole)

    return wrapped(wrap, lambda given: given[1].to_dense() + given[0])  # type: ignore[index]


class Closed(Tensor):
    """Wraps a tensor and does nothing with it."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Closed":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=inner.requires_grad)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError(str(function))


@DATA.add
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


@DATA.add
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


@DATA.add
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


@DATA.add
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


@DATA.add
def inputs_that_are_overwritten_and_reshaped() -> Training:
    return squares(Writer(), 3, 4)


class Releasing(nn.Module):
    """Does to what its layers return what frees memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four = (layer(x) for layer in self.layers)
        one.detach_()
        kept = two + one
        two.untyped_storage().resize_(0)
        three.retain_grad()
        four.requires_grad_()
        with torch.no_grad():
            four.zero_()
        return kept + three + four


@DATA.add
def outputs_that_are_detached_and_freed() -> Training:
    training = squares(Releasing(), 3, 4)
    training.model.layers[0].requires_grad_(False)  # its output could not be detached in place otherwise
    return training


@DATA.add
def inputs_made_in_inference_mode() -> Training:
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Tanh(), nn.Linear(4, 2))

    def loss_of(step: int) -> Tensor:
        with torch.inference_mode():
            x = data(step, 3, 4) * 2
            model(x)
        return model[2](model[1](model[0](x)).clone()).square().mean()

    return trained(model, loss_of)


class Own(torch.autograd.Function):
    """Changes its input in place, and returns what has no gradient beside it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor, int, None]:  # type: ignore[no-untyped-def, override]
        order = x.argsort()
        ctx.mark_dirty(x)
        ctx.mark_non_differentiable(order)
        return x.mul_(3), order, 3, None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, *others: object) -> Tensor:  # type: ignore[no-untyped-def, override]
        return grad * 3


@DATA.add
def a_function_of_ones_own() -> Training:
    return wrapped(lambda x: Own.apply(x.clone()), lambda given: given[0])  # type: ignore[index]

"""Trainings of modules that take and return odd things, or that others have hooked: each function makes one."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_models import data, squares, trained
from watching import Training


class KeywordsOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, *, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        y = self.fc(input=x) * scale
        return y if mask is None else y * mask


def keywords() -> Training:
    model = KeywordsOnly()
    return trained(model, lambda i: model(x=data(i, 3, 4)).square().mean())


class Inner(nn.Module):
    """Called with keywords only, inside of another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = KeywordsOnly(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x=x, scale=0.5, mask=torch.ones(3)))


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    more: dict[str, object]


Pair = namedtuple("Pair", "first second")


class Structured(nn.Module):
    """Returns a dataclass of a dictionary of a list, and is given one."""

    def __init__(self) -> None:
        super().__init__()
        self.nest, self.head = Nest(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Output:
        nested = self.nest({"x": [x, (x, 3)], "word": "text"})
        first = nested["pair"].first
        return Output(self.head(first), (x, first), {"nested": nested, "none": None, "set": {1, 2}})


class Nest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, given: dict[str, list[object]]) -> dict[str, object]:
        x = given["x"][0]
        y = self.fc(x)
        return OrderedDict(pair=Pair(y, None), again=[y, y], ids=x.argmax(-1), bool=True, empty=())


def structured() -> Training:
    model = Structured()
    return trained(model, lambda i: model(data(i, 3, 4)).logits.square().mean())


class InPlace(nn.Module):
    """Changes in place what modules have returned, and views of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y += x
        y[:, :2].relu_()
        left, right = self.b(y).chunk(2, dim=1)
        left = left.mul(2).add_(right)
        z = self.c(left)
        self.act(z.view(-1))
        return z


class Chunks(nn.Module):
    """Returns views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.fc(x).chunk(3, dim=1)


def chunks() -> Training:
    model = nn.Sequential(Chunks())

    def loss_of(step: int) -> Tensor:
        one, two, three = model(data(step, 3, 4))
        return (one * two).sum() + three[:, 0].square().sum()

    return trained(model, loss_of)


class Same(nn.Module):
    """Returns what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Talker(nn.Module):
    """Returns None, a number, a word, a function, by turns."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


class Talkative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.talk = nn.ModuleList([Talker(answer) for answer in (None, 3, "word", len, object(), {1}, b"", range(3))])

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return x * sum(isinstance(talker(x), int) for talker in self.talk)


class Generating(nn.Module):
    """Returns a generator: its tensors are made while the caller goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        for _ in range(3):
            x = self.fc(x)
            yield x


class Consumer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source = Generating()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(list(self.source(x))).sum(0)


class Borrower(nn.Module):
    """Two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.turned = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.turned.bias = self.one.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.turned(self.two(self.one(x).tanh()).tanh())


class Normed(nn.Module):
    """Buffers alone in a child; batch normalisation in training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm, self.fc = Running(), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2)
        self.frozen = nn.BatchNorm1d(4).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.scale(x)) + self.frozen(x))


class Running(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.mean


def evaluated_between() -> Training:
    model = Normed()

    def loss_of(step: int) -> Tensor:
        model.eval()
        model.frozen.train(step % 2 == 1)
        seen = model(data(step + 9, 5, 4)).sum().item()
        model.train()
        return model(data(step, 5, 4)).square().mean() + 0 * seen

    return trained(model, loss_of)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).mean()


def hooked_by_others() -> Training:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    model[0].register_forward_hook(lambda module, args, y: y * 1.5)
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 0.1,))
    model[1].register_full_backward_hook(lambda module, into, out: (into[0] * 0.5,))
    model[2].register_full_backward_pre_hook(lambda module, out: (out[0] * 2.0,))
    model[3].register_forward_hook(lambda module, args, y: y.register_hook(lambda g: g.clamp(-0.1, 0.1)) and None)
    model[4].weight.register_hook(lambda g: g + 0.01)
    model[4].register_state_dict_post_hook(lambda *given: None)
    return squares(model, 3, 4)


def hooked_without_a_batch() -> Training:
    """Others' hooks that were placed with each option that torch has."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].register_forward_hook(lambda module, args, kwargs, y: None, with_kwargs=True, prepend=True)
    model[1].register_forward_hook(lambda module, args, y: y + 0.1, always_call=True)
    model[2].register_forward_pre_hook(lambda module, args, kwargs: (args, {}), with_kwargs=True)
    return squares(model, 3, 4)


MODULES: dict[str, Callable[[], Training]] = {
    "keywords only, outside": keywords,
    "keywords only, inside": lambda: squares(Inner(), 3, 4),
    "dataclasses, dictionaries, lists": structured,
    "in place, also on views": lambda: squares(InPlace(), 3, 4),
    "chunks of one tensor": chunks,
    "Identities": lambda: squares(nn.Sequential(nn.Identity(), nn.Linear(4, 4), nn.Identity(), nn.Identity()), 3, 4),
    "modules that return what they are given": lambda: squares(
        nn.Sequential(Same(), nn.Linear(4, 4), Same(), Same()), 3, 4
    ),
    "modules that return no tensors": lambda: squares(Talkative(), 3, 4),
    "generators": lambda: squares(Consumer(), 3, 4),
    "shared weights": lambda: squares(Borrower(), 3, 4),
    "buffers and batch normalisation, evaluated in between": evaluated_between,
    "0-dim outputs": lambda: squares(Scalar(), 3, 4),
    "others' hooks that change values": hooked_by_others,
    "others' hooks with all options": hooked_without_a_batch,
}

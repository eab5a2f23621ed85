"""Small learnable tasks and the models' common parts."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from corpus.case import randint, randn
from sklearn.datasets import load_digits
from torch import Tensor, nn


def blobs(step: int, n: int = 64, dim: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Points around one centre per class."""
    y = randint(classes, (n,), step=step, salt=11)
    return 1.3 * randn(classes, dim, salt=12)[y] + 0.7 * randn(n, dim, step=step, salt=13), y


def surface(step: int, n: int = 64, dim: int = 6) -> tuple[Tensor, Tensor]:
    """A smooth function of some of the coordinates."""
    x = randn(n, dim, step=step, salt=14)
    return x, torch.tanh(x[:, :1] + x[:, 1:2]) + 0.5 * x[:, 2:3] - 0.3 * x[:, 3:4].abs()


@cache
def _digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def digits(step: int, n: int = 48) -> tuple[Tensor, Tensor]:
    """Handwritten digits, 8 × 8, one channel in 0 … 1."""
    images, labels = _digits()
    chosen = randint(len(images), (n,), step=step, salt=15)
    return images[chosen], labels[chosen]


def flat_digits(step: int, n: int = 48) -> tuple[Tensor, Tensor]:
    """The digits as rows of 64 numbers around 0."""
    x, y = digits(step, n)
    return 2 * x.flatten(1) - 1, y


def recall(step: int, n: int = 32, length: int = 30, symbols: int = 4) -> tuple[Tensor, Tensor]:
    """The class is the symbol with which the sequence begins; noise follows."""
    y = randint(symbols, (n,), step=step, salt=16)
    x = 0.2 * randn(n, length, symbols, step=step, salt=17)
    x[:, 0] += F.one_hot(y, symbols)
    return x, y


def tokens(step: int, n: int = 32, length: int = 12, vocabulary: int = 16) -> tuple[Tensor, Tensor]:
    """Whether at least three of a sentence's words are among the first four of the vocabulary."""
    ids = randint(vocabulary, (n, length), step=step, salt=18)
    return ids, (ids < 4).sum(1).ge(3).long()


def classify(model: nn.Module, data: Any) -> Tensor:
    """Cross-entropy of the model's logits."""
    return F.cross_entropy(model(data[0]).float(), data[1])


def regress(model: nn.Module, data: Any) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(model(data[0]).float(), data[1])


def reconstruct(model: nn.Module, data: Any) -> Tensor:
    """Mean squared error to the input itself."""
    return F.mse_loss(model(data[0]).float(), data[0])


class Mlp(nn.Module):
    """`layers.k` with `acts.k` behind each, and a linear `head`."""

    def __init__(
        self,
        sizes: Sequence[int],
        act: Callable[[], nn.Module] = nn.ReLU,
        init: Callable[[nn.Linear], object] | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[:-1]))
        self.acts = nn.ModuleList(act() for _ in self.layers)
        self.head = nn.Linear(sizes[-2], sizes[-1])
        for layer in self.layers if init else ():
            init(layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = act(layer(x))
        return self.head(x)


class ConvNet(nn.Module):
    """`convs.k` with `acts.k`, the mean over the picture, and `fc`."""

    def __init__(
        self,
        depth: int,
        width: int = 12,
        act: Callable[[], nn.Module] = nn.ReLU,
        init: Callable[[nn.Conv2d], object] | None = None,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width if k else 1, width, 3, stride=2 if k == 1 else 1, padding=1) for k in range(depth)
        )
        self.acts = nn.ModuleList(act() for _ in self.convs)
        self.fc = nn.Linear(16 * width, classes)
        for conv in self.convs if init else ():
            init(conv)

    def forward(self, x: Tensor) -> Tensor:
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x))
        return self.fc(x.flatten(1))


def he(layer: nn.Module) -> None:
    """Weights for rectifiers, biases zero."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def normal(std: float) -> Callable[[nn.Module], None]:
    """Normal weights of that spread, biases zero."""

    def init(layer: nn.Module) -> None:
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)

    return init

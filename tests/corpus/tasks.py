"""What many cases share: tasks of digits, smooth functions and sequences, their losses, a plain net."""

from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from corpus.case import Case, generator, randint, randn
from sklearn.datasets import load_digits
from torch import Tensor, nn


@cache
def _digits() -> tuple[Tensor, Tensor]:
    held = load_digits()
    return torch.tensor(held.data, dtype=torch.float32), torch.tensor(held.target)


def digits(step: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Handwritten digits, (count, 64), of about zero mean and unit variance, and which they are."""
    pixels, labels = _digits()
    chosen = randint(len(pixels), (count,), step=step, salt=40)
    return (pixels[chosen] - 4.9) / 6.0, labels[chosen]


def digit_images(step: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """The same as images, (count, 1, 8, 8)."""
    pixels, labels = digits(step, count)
    return pixels.view(-1, 1, 8, 8), labels


def digit_rows(step: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """The same as sequences of eight rows, (count, 8, 8)."""
    pixels, labels = digits(step, count)
    return pixels.view(-1, 8, 8), labels


def surface(step: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """A smooth function of five inputs with a little noise."""
    x = randn(count, 5, step=step, salt=41)
    y = torch.sin(1.5 * x[:, 0]) + x[:, 1] * x[:, 2] / 2 + torch.tanh(x[:, 3]) - x[:, 4] / 2
    return x, (y + 0.05 * randn(count, step=step, salt=42))[:, None]


def babble(step: int, count: int = 32, length: int = 16, words: int = 20) -> Tensor:
    """Sequences of words, (count, length), each of which mostly tells the next."""
    follows = torch.randperm(words, generator=generator(0, salt=43))
    said = [randint(words, (count,), step=step, salt=44)]
    stray = torch.rand(count, length, generator=generator(step, salt=45)) < 0.1
    other = randint(words, (count, length), step=step, salt=46)
    for i in range(1, length):
        said.append(torch.where(stray[:, i], other[:, i], follows[said[-1]]))
    return torch.stack(said, 1)


def cross_entropy(model: nn.Module, data: Any) -> Tensor:
    """Of a classifier."""
    return F.cross_entropy(model(data[0]), data[1])


def squared(model: nn.Module, data: Any) -> Tensor:
    """Mean squared error of a regression."""
    return F.mse_loss(model(data[0]), data[1])


def next_word(model: nn.Module, said: Tensor) -> Tensor:
    """Cross-entropy of a language model that gives (batch, length, words)."""
    return F.cross_entropy(model(said[:, :-1]).flatten(0, 1), said[:, 1:].flatten())


def perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers += [activation()] * (i > 0) + [nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


def healthy(**parts: Any) -> Case:
    """A case in which there is nothing to find."""
    return Case(family="healthy", **parts)

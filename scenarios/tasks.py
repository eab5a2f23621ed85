"""What the scenarios learn: real digits, the adding problem, a word. Deterministic for a seed.

The held-out data are the same for every seed and never among the batches.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradscope.scenarios.base import Task

Layout: TypeAlias = Literal["flat", "image", "rows", "pixels"]

# A digit has 8×8 pixels: as a vector, as an image, as a sequence of rows, as a sequence of single pixels.
SHAPES: dict[Layout, tuple[int, ...]] = {"flat": (64,), "image": (1, 8, 8), "rows": (8, 8), "pixels": (64, 1)}

HELD_OUT = 2**31 - 1  # seed of the held-out sums; `run` takes no seed as large


@cache
def load_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's 1797 handwritten digits: train inputs (sample, 64) and targets, test inputs and targets.

    Standardised by the mean and deviation of all training pixels, not of each: a pixel that is lit in three digits
    would become an outlier of twenty deviations. A third is held out, stratified.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        pixels.astype(np.float32), labels, test_size=1 / 3, stratify=labels, random_state=0
    )
    mean, std = train.mean(), train.std()
    return (
        torch.from_numpy((train - mean) / std),
        torch.from_numpy(train_labels),
        torch.from_numpy((test - mean) / std),
        torch.from_numpy(test_labels),
    )


def digits(layout: Layout = "flat", *, batch: int = 64) -> Task:
    """Which of ten digits. Scored by the accuracy on held-out digits."""
    return Task(
        batches=partial(_digit_batches, layout, batch),
        loss=F.cross_entropy,
        score=partial(_digit_score, layout),
    )


def _digit_batches(layout: Layout, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, targets, _, _ = load_digits()
    inputs = inputs.unflatten(1, SHAPES[layout])
    generator = torch.Generator().manual_seed(seed)
    while True:  # an epoch; what does not fill a batch is left to the next shuffle
        order = torch.randperm(len(inputs), generator=generator)
        for chosen in order[: len(order) // batch * batch].view(-1, batch):
            yield inputs[chosen], targets[chosen]


def _digit_score(layout: Layout, model: nn.Module) -> Mapping[str, float]:
    _, _, inputs, targets = load_digits()
    with torch.no_grad():
        predicted = model(inputs.unflatten(1, SHAPES[layout])).argmax(1)
    return {"accuracy": float((predicted == targets).double().mean())}


def adding(lags: Sequence[int], *, near: int, spread: int, batch: int = 64) -> Task:
    """The sum of the two numbers of a sequence that are marked; the loss reads the last step.

    One of the two lies `near` steps back from the end, the other as many as one of `lags`, drawn for each sequence;
    both up to `spread` − 1 steps less. A sequence has as many steps as the longest lag. Always answering 1 has a mean
    squared error of 1/6.

    Scored by "accuracy", the share of held-out sequences answered within 0.1, and "explained", 1 − mse / variance:
    1 if all are right, 0 for always answering the mean or worse. "explained at 50" is of the sequences with that lag.

    Source: Hochreiter & Schmidhuber 1997, §5.4 (Task 4); there and in Le et al. 2015, §4.1, one lies in each half.
    """
    if min(lags) - spread < near:
        raise ValueError(f"a lag of {min(lags)} with a spread of {spread} must be beyond `near={near}`")
    return Task(
        batches=partial(_sum_batches, lags, near, spread, batch),
        loss=lambda outputs, targets: F.mse_loss(outputs.squeeze(1), targets),
        score=partial(_sum_score, lags, near, spread),
    )


def _sum_batches(lags: Sequence[int], near: int, spread: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(lags), (batch,), generator=generator)
        yield _sums(torch.tensor(lags)[chosen], max(lags), near, spread, generator)


def _sums(lags: Tensor, length: int, near: int, spread: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A sequence for each lag."""
    batch = len(lags)
    every = torch.arange(batch)
    values = torch.rand(batch, length, generator=generator)
    far, close = torch.randint(spread, (2, batch), generator=generator)
    marks = torch.zeros(batch, length)
    marks[every, length - lags + far] = marks[every, length - near + close] = 1
    return torch.stack([values, marks], dim=2), (values * marks).sum(1)


def _sum_score(lags: Sequence[int], near: int, spread: int, model: nn.Module) -> Mapping[str, float]:
    generator = torch.Generator().manual_seed(HELD_OUT)
    of_lag = torch.tensor(lags).repeat_interleave(1000)
    inputs, targets = _sums(of_lag, max(lags), near, spread, generator)
    with torch.no_grad():
        error = (model(inputs).squeeze(1) - targets).double()

    def explained(chosen: Tensor) -> float:
        return max(1 - float(error[chosen].square().mean() / targets[chosen].double().var(correction=0)), 0.0)

    return {
        "accuracy": float((error.abs() < 0.1).double().mean()),
        "explained": explained(of_lag > 0),
        **{f"explained at {lag}": explained(of_lag == lag) for lag in lags},
    }


def spelling(word: str, dictionary: str) -> Task:
    """Each next character of `word`; the loss is the sum over the steps, not the mean. The same batch of one, always.

    Scored by the share of characters that are right.
    """
    inputs = torch.eye(len(dictionary))[[dictionary.index(character) for character in word[:-1]]].unsqueeze(0)
    targets = torch.tensor([[dictionary.index(character) for character in word[1:]]])
    return Task(
        batches=partial(_always, inputs, targets),
        loss=_summed_cross_entropy,
        score=partial(_spelling_score, inputs, targets),
    )


def _always(inputs: Tensor, targets: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield inputs, targets


def _summed_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum")


def _spelling_score(inputs: Tensor, targets: Tensor, model: nn.Module) -> Mapping[str, float]:
    with torch.no_grad():
        return {"accuracy": float((model(inputs).argmax(2) == targets).double().mean())}

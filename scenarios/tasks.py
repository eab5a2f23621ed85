"""What the scenarios learn: real digits, and the adding problem. Deterministic for a seed.

The held-out data are the same for every seed and never among the batches.
"""

from collections.abc import Iterator, Mapping
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


def adding(length: int, *, batch: int = 64) -> Task:
    """The sum of the two numbers of a sequence that are marked, one in each half; the loss reads the last step.

    Always answering 1 has a mean squared error of 1/6. Scored by the share of held-out sequences answered within 0.04.

    Source: Hochreiter & Schmidhuber 1997, §5.4 (Task 4), in the form of Le et al. 2015, §4.1.
    """
    return Task(
        batches=partial(_sum_batches, length, batch),
        loss=lambda outputs, targets: F.mse_loss(outputs.squeeze(1), targets),
        score=partial(_sum_score, length),
    )


def _sum_batches(length: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    half = length // 2
    every = torch.arange(batch)
    while True:
        values = torch.rand(batch, length, generator=generator)
        first = torch.randint(half, (batch,), generator=generator)
        second = torch.randint(half, length, (batch,), generator=generator)
        marks = torch.zeros(batch, length)
        marks[every, first] = marks[every, second] = 1
        yield torch.stack([values, marks], dim=2), (values * marks).sum(1)


def _sum_score(length: int, model: nn.Module) -> Mapping[str, float]:
    inputs, targets = next(_sum_batches(length, 1000, HELD_OUT))
    with torch.no_grad():
        error = (model(inputs).squeeze(1) - targets).abs()
    return {"accuracy": float((error < 0.04).double().mean()), "mse": float(error.square().mean())}

"""Models that have learned already: small gradients are what is to be expected."""

from collections.abc import Callable

import torch
from corpus.case import Case, adam, case, randn, sgd
from corpus.tasks import cross_entropy, digits, healthy, perceptron, squared
from torch import Tensor, nn

Batch = Callable[[int], tuple[Tensor, Tensor]]


def settled(model: nn.Module, loss: Callable[..., Tensor], batch: Batch, steps: int, lr: float) -> nn.Module:
    """`model` after a training of its own, on the same task."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, batch(1000 + step)).backward()
        optimizer.step()
    return model


def line(step: int) -> tuple[Tensor, Tensor]:
    x = randn(128, 6, step=step, salt=140)
    return x, x @ randn(6, 1, salt=141) + 0.3 * randn(128, 1, step=step, salt=142)


@case("h_converged_classifier")
def _() -> Case:
    """Trained before: the loss is near zero and so are the gradients; it stays there."""
    return healthy(
        build=lambda: settled(perceptron(64, 64, 10, activation=nn.GELU), cross_entropy, digits, 400, 3e-3),
        batch=digits,
        loss=cross_entropy,
        optimizer=adam(1e-4),
        steps=80,
    )


@case("h_converged_regression_at_noise")
def _() -> Case:
    """Nothing is left to learn: the loss is the variance of the noise, 0.09, the gradient is noise."""
    return healthy(
        build=lambda: settled(nn.Linear(6, 1), squared, line, 300, 2e-2),
        batch=line,
        loss=squared,
        optimizer=sgd(0.01),
        steps=80,
    )

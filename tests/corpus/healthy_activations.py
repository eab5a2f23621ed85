"""Activations of all kinds in nets shallow enough for them."""

from collections.abc import Callable

import torch
from corpus.case import Case, adam, case, sgd
from corpus.tasks import cross_entropy, digit_images, digits, healthy, squared, surface
from torch import Tensor, nn


class Classifier(nn.Module):
    """Three layers, each with an activation of its own."""

    def __init__(self, activation: Callable[[], nn.Module], width: int = 64, fan_in: int = 64, out: int = 10) -> None:
        super().__init__()
        self.fc1, self.act1 = nn.Linear(fan_in, width), activation()
        self.fc2, self.act2 = nn.Linear(width, width), activation()
        self.head = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(x)))))


@case("h_small_tanh_net")
def _() -> Case:
    """Two layers of tanh by plain SGD."""
    return healthy(
        build=lambda: Classifier(nn.Tanh, 32, 5, 1), batch=surface, loss=squared, optimizer=sgd(0.1), steps=200
    )


@case("h_small_sigmoid_net")
def _() -> Case:
    """Two layers of sigmoids, as in the eighties; shallow enough."""
    return healthy(
        build=lambda: Classifier(nn.Sigmoid, 48), batch=digits, loss=cross_entropy, optimizer=adam(3e-3), steps=150
    )


@case("h_one_sigmoid_layer_regression")
def _() -> Case:
    """A universal approximator of one layer."""
    return healthy(
        build=lambda: nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Linear(64, 1)),
        batch=surface,
        loss=squared,
        optimizer=adam(1e-2),
        steps=200,
    )


@case("h_mish_and_hardswish")
def _() -> Case:
    """Activations that fall before they rise."""

    def build() -> nn.Module:
        model = Classifier(nn.Mish)
        model.act2 = nn.Hardswish()
        return model

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=adam(2e-3), steps=80)


@case("h_prelu_conv")
def _() -> Case:
    """Slopes of their own for every channel, learned."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.PReLU(12), nn.Conv2d(12, 24, 3, padding=1), nn.PReLU(24),
            nn.Flatten(), nn.Linear(384, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(2e-3), steps=70,
    )  # fmt: skip


@case("h_elu_momentum")
def _() -> Case:
    """Negative outputs down to −1."""
    return healthy(
        build=lambda: Classifier(nn.ELU), batch=digits, loss=cross_entropy, optimizer=sgd(0.05, momentum=0.9), steps=80
    )


@case("h_softplus_regression")
def _() -> Case:
    """Outputs that are never zero nor negative."""
    return healthy(
        build=lambda: Classifier(nn.Softplus, 48, 5, 1), batch=surface, loss=squared, optimizer=adam(3e-3), steps=150
    )


@case("h_leaky_rectifiers_rmsprop")
def _() -> Case:
    """A slope of 0.2 below zero."""
    return healthy(
        build=lambda: Classifier(lambda: nn.LeakyReLU(0.2), 48),
        batch=digits,
        loss=cross_entropy,
        optimizer=lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3),
        steps=80,
    )


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pieces1, self.pieces2, self.head = nn.Linear(64, 4 * 32), nn.Linear(32, 4 * 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pieces1(x).unflatten(1, (32, 4)).amax(2)
        return self.head(self.pieces2(x).unflatten(1, (32, 4)).amax(2))


@case("h_maxout_three_of_four_pieces_idle")
def _() -> Case:
    """For a sample only the largest of four pieces gets a gradient."""
    return healthy(build=Maxout, batch=digits, loss=cross_entropy, optimizer=adam(2e-3), steps=80)

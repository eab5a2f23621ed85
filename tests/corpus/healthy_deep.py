"""Deep nets that carry their signal: orthogonal, He's, self-normalising, residual, shared."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, sgd
from corpus.tasks import cross_entropy, digit_images, digits, healthy, perceptron, squared, surface
from torch import Tensor, nn


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@case("h_thirty_orthogonal_tanh_layers")
def _() -> Case:
    """Dynamical isometry: thirty layers of tanh with orthogonal weights pass gradients as they come."""

    def build() -> nn.Module:
        model = perceptron(64, *[48] * 30, 10, activation=nn.Tanh)
        for layer in linear_layers(model):
            nn.init.orthogonal_(layer.weight, 1.05)
            nn.init.zeros_(layer.bias)
        return model

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=adam(3e-4), steps=100)


@case("h_twelve_he_rectifier_layers")
def _() -> Case:
    """He's weights keep the size of the signal through twelve layers.

    Tolerated: of the deep layers a sixth of the units is off for every digit, for digits become alike up there; the
    other five sixths suffice.
    """

    def build() -> nn.Module:
        model = perceptron(64, *[128] * 12, 10)
        for layer in linear_layers(model)[:-1]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        return model

    return healthy(
        build=build, batch=digits, loss=cross_entropy, optimizer=adam(3e-4), steps=80, tolerate=("dead-units",)
    )


@case("h_twelve_he_leaky_layers_sgd")
def _() -> Case:
    """The same for a slope of 0.1, by SGD with momentum."""

    def build() -> nn.Module:
        model = nn.Sequential()
        for _ in range(12):
            layer = nn.Linear(64, 64)
            nn.init.kaiming_normal_(layer.weight, 0.1)
            nn.init.zeros_(layer.bias)
            model.extend([layer, nn.LeakyReLU(0.1)])
        return model.append(nn.Linear(64, 10))

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=sgd(0.01, momentum=0.9), steps=100)


@case("h_self_normalising_with_alpha_dropout")
def _() -> Case:
    """SELU with LeCun's weights and alpha dropout, ten layers."""

    def build() -> nn.Module:
        model = nn.Sequential()
        for _ in range(10):
            layer = nn.Linear(64, 64)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)
            model.extend([layer, nn.SELU(), nn.AlphaDropout(0.02)])
        return model.append(nn.Linear(64, 10))

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=adam(5e-4), steps=100)


@case("h_twelve_layers_of_batch_norm")
def _() -> Case:
    """Twelve layers, each normalised over the batch."""

    def build() -> nn.Module:
        stack = [part for _ in range(12) for part in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())]
        return nn.Sequential(*stack, nn.Linear(64, 10))

    return healthy(build=build, batch=lambda s: digits(s, 128), loss=cross_entropy, optimizer=adam(1e-3), steps=100)


class Fixup(nn.Module):
    """A residual block without normalisation: first layer scaled down, second zero, scalar biases and a scale."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.bias1, self.bias2, self.bias3 = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.conv1.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv2.weight)
        with torch.no_grad():
            self.conv1.weight.mul_(depth**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x + self.bias1) + self.bias2)
        return F.relu(x + self.conv2(y) * self.scale + self.bias3)


@case("h_fixup_six_blocks")
def _() -> Case:
    """In the first step only the second convolution of each block learns."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), *(Fixup(16, 6) for _ in range(6)), nn.Flatten(), nn.Linear(256, 10)
        ),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=80,
    )


class PreNorm(nn.Module):
    def __init__(self, width: int, survives: float = 1.0) -> None:
        super().__init__()
        self.norm, self.net, self.survives = nn.LayerNorm(width), perceptron(width, width, width), survives

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()) > self.survives:
            return x
        return x + self.net(self.norm(x)) / self.survives


@case("h_twenty_residual_blocks_pre_norm")
def _() -> Case:
    """Forty layers, twenty shortcuts; the signal grows with the root of the depth, as it may."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Linear(64, 32), *(PreNorm(32) for _ in range(20)), nn.LayerNorm(32), nn.Linear(32, 10)
        ),
        batch=digits,
        loss=cross_entropy,
        optimizer=adamw(1e-3),
        steps=80,
    )


@case("h_stochastic_depth")
def _() -> Case:
    """Blocks are left out, the last ones up to every other step: then they have no gradient."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Linear(64, 48), *(PreNorm(48, 1 - i / 12) for i in range(7)), nn.LayerNorm(48), nn.Linear(48, 10)
        ),
        batch=digits,
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=120,
    )


class Flowing(nn.Module):
    """One vector field, followed for eight steps of Euler's."""

    def __init__(self, width: int = 32, steps: int = 8) -> None:
        super().__init__()
        self.lift, self.field = nn.Linear(5, width), perceptron(width, 48, width, activation=nn.Tanh)
        self.read, self.steps = nn.Linear(width, 1), steps

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for _ in range(self.steps):
            x = x + self.field(x) / self.steps
        return self.read(x)


@case("h_neural_ode_by_euler")
def _() -> Case:
    """The same module eight times in a forward pass."""
    return healthy(build=Flowing, batch=surface, loss=squared, optimizer=adam(3e-3), steps=120)


class Equilibrium(nn.Module):
    """z = tanh(Wz + Ux), iterated to its fixed point, with a gradient through the last three rounds."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.inner, self.inject, self.head = nn.Linear(width, width), nn.Linear(64, width), nn.Linear(width, 10)
        nn.init.orthogonal_(self.inner.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        given = self.inject(x)
        z = torch.zeros_like(given)
        with torch.no_grad():
            for _ in range(10):
                z = torch.tanh(self.inner(z) + given)
        for _ in range(3):
            z = torch.tanh(self.inner(z) + given)
        return self.head(z)


@case("h_deep_equilibrium")
def _() -> Case:
    """Ten rounds without a graph, three with."""
    return healthy(build=Equilibrium, batch=digits, loss=cross_entropy, optimizer=adam(2e-3), steps=100)


class Shared(nn.Module):
    def __init__(self, width: int = 48, times: int = 6) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(64, width), PreNorm(width)
        self.norm, self.head, self.times = nn.LayerNorm(width), nn.Linear(width, 10), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for _ in range(self.times):
            x = self.layer(x)
        return self.head(self.norm(x))


@case("h_one_layer_used_six_times")
def _() -> Case:
    """As ALBERT shares its layers: the gradient is the sum of six."""
    return healthy(build=Shared, batch=digits, loss=cross_entropy, optimizer=adam(1e-3), steps=80)

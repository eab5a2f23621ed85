"""Regressions of every kind, from a straight line to waves and splines."""

import math

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, generator, randn, sgd
from corpus.tasks import cross_entropy, digits, healthy, perceptron, squared, surface
from torch import Tensor, nn


def uniform(count: int, width: int, step: int, salt: int) -> Tensor:
    """Numbers from −1 to 1."""
    return 2 * torch.rand(count, width, generator=generator(step, salt)) - 1


@case("h_linear_regression")
def _() -> Case:
    """One layer, no activation."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = randn(64, 8, step=step, salt=150)
        return x, x @ randn(8, 1, salt=151) + 0.1 * randn(64, 1, step=step, salt=152)

    return healthy(build=lambda: nn.Linear(8, 1), batch=batch, loss=squared, optimizer=sgd(0.05), steps=100)


@case("h_logistic_regression")
def _() -> Case:
    """Digits by a single layer, from zero: for one layer that breaks no symmetry."""

    def build() -> nn.Module:
        model = nn.Linear(64, 10)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=sgd(0.1), steps=100)


class Polynomial(nn.Module):
    def __init__(self, degree: int = 5) -> None:
        super().__init__()
        self.coefficients, self.degree = nn.Linear(degree, 1), degree

    def forward(self, x: Tensor) -> Tensor:
        return self.coefficients(torch.cat([x**k for k in range(1, self.degree + 1)], 1))


@case("h_polynomial_fit")
def _() -> Case:
    """A cubic in powers up to the fifth, which are nearly collinear."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = uniform(64, 1, step, 153)
        return x, 2 * x**3 - x + 0.5 + 0.05 * randn(64, 1, step=step, salt=154)

    return healthy(build=Polynomial, batch=batch, loss=squared, optimizer=adam(3e-2), steps=200)


def hills(step: int) -> tuple[Tensor, Tensor]:
    """A picture as a function of its coordinates."""
    x = uniform(256, 2, step, 155)
    return x, torch.sin(6 * x[:, :1]) * torch.cos(4 * x[:, 1:]) + 0.3 * torch.sin(9 * x.sum(1, keepdim=True))


class Sine(nn.Module):
    """sin(ω(Wx + b)), with the weights of the paper."""

    def __init__(self, fan_in: int, fan_out: int, omega: float, *, first: bool = False) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(fan_in, fan_out), omega
        bound = 1 / fan_in if first else math.sqrt(6 / fan_in) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


@case("h_coordinates_by_sines")
def _() -> Case:
    """A SIREN: factors of ten inside sines, and small weights to match."""
    return healthy(
        build=lambda: nn.Sequential(Sine(2, 64, 10.0, first=True), Sine(64, 64, 10.0), nn.Linear(64, 1)),
        batch=hills,
        loss=squared,
        optimizer=adam(5e-4),
        steps=200,
    )


class FourierFeatures(nn.Module):
    def __init__(self, count: int = 48, scale: float = 0.6) -> None:
        super().__init__()
        self.register_buffer("waves", scale * torch.randn(2, count))

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * torch.pi * x @ self.waves
        return torch.cat([phase.sin(), phase.cos()], 1)


@case("h_fourier_features")
def _() -> Case:
    """Fixed random waves below, a small net above."""
    return healthy(
        build=lambda: nn.Sequential(FourierFeatures(), perceptron(96, 48, 1)),
        batch=hills,
        loss=squared,
        optimizer=adam(2e-3),
        steps=150,
    )


class Bumps(nn.Module):
    def __init__(self, count: int = 40) -> None:
        super().__init__()
        self.centers, self.log_width = nn.Parameter(2 * torch.rand(count, 2) - 1), nn.Parameter(torch.zeros(count) - 1)
        self.readout = nn.Linear(count, 1)

    def forward(self, x: Tensor) -> Tensor:
        distance = ((x[:, None] - self.centers) ** 2).sum(2)
        return self.readout(torch.exp(-distance / (2 * torch.exp(2 * self.log_width))))


@case("h_radial_basis")
def _() -> Case:
    """Forty bumps, nearly zero far from their centres."""
    return healthy(build=Bumps, batch=hills, loss=squared, optimizer=adam(1e-2), steps=200)


class Splines(nn.Module):
    """A sum of learned functions of single inputs: hats on a grid, plus a line."""

    def __init__(self, fan_in: int, fan_out: int, knots: int = 9, reach: float = 2.5) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-reach, reach, knots))
        self.hats = nn.Parameter(0.1 * torch.randn(fan_in, knots, fan_out))
        self.line = nn.Linear(fan_in, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        near = F.relu(1 - (x[..., None] - self.grid).abs() / (self.grid[1] - self.grid[0]))
        return self.line(x) + torch.einsum("bik,iko->bo", near, self.hats)


@case("h_kolmogorov_splines")
def _() -> Case:
    """Two layers of learned functions; a sample touches two hats of nine."""
    return healthy(
        build=lambda: nn.Sequential(Splines(5, 8), Splines(8, 1)),
        batch=lambda s: surface(s, 128),
        loss=squared,
        optimizer=adam(5e-3),
        steps=200,
    )


class MixtureDensity(nn.Module):
    def __init__(self, parts: int = 4) -> None:
        super().__init__()
        self.body, self.weights = nn.Sequential(nn.Linear(1, 48), nn.Tanh()), nn.Linear(48, parts)
        self.means, self.log_scales = nn.Linear(48, parts), nn.Linear(48, parts)
        with torch.no_grad():
            self.means.bias.copy_(torch.linspace(-1, 1, parts))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x)
        each = torch.distributions.Normal(self.means(h), self.log_scales(h).clamp(min=-4).exp()).log_prob(y)
        return -torch.logsumexp(self.weights(h).log_softmax(1) + each, 1).mean()


@case("h_mixture_density")
def _() -> Case:
    """One input, several true answers: a log-likelihood by logsumexp, which may fall below zero."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        y = uniform(128, 1, step, 156)
        return y + 0.3 * torch.sin(7 * y) + 0.03 * randn(128, 1, step=step, salt=157), y

    return healthy(build=MixtureDensity, batch=batch, loss=lambda m, b: m(*b), optimizer=adam(5e-3), steps=200)


@case("h_uncertain_regression")
def _() -> Case:
    """Mean and variance are both learned; the loss may fall below zero."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x = uniform(128, 1, step, 158)
        return x, torch.sin(3 * x) + (0.05 + 0.2 * x.abs()) * randn(128, 1, step=step, salt=159)

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        mean, log_variance = model(data[0]).chunk(2, 1)
        return F.gaussian_nll_loss(mean, data[1], log_variance.exp())

    return healthy(
        build=lambda: perceptron(1, 48, 48, 2, activation=nn.Tanh),
        batch=batch,
        loss=loss,
        optimizer=adam(3e-3),
        steps=200,
    )


@case("h_quantile_regression")
def _() -> Case:
    """Three quantiles at once: the gradient of a sample is one of two constants."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        beyond, q = data[1] - model(data[0]), torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(q * beyond, (q - 1) * beyond).mean()

    return healthy(
        build=lambda: perceptron(5, 64, 64, 3, activation=nn.SiLU),
        batch=lambda s: surface(s, 128),
        loss=loss,
        optimizer=adam(3e-3),
        steps=150,
    )


class Physics(nn.Module):
    """u(t), whose derivative the loss asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.u = perceptron(1, 32, 32, 1, activation=nn.Tanh)

    def forward(self, t: Tensor) -> Tensor:
        return 1 + t * self.u(t)


@case("h_physics_informed_decay")
def _() -> Case:
    """u' = −2u + t, by a gradient within the loss."""

    def loss(model: nn.Module, t: Tensor) -> Tensor:
        t = t.clone().requires_grad_()
        u = model(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return ((slope + 2 * u - t) ** 2).mean()

    return healthy(
        build=Physics, batch=lambda s: uniform(64, 1, s, 160).abs(), loss=loss, optimizer=adam(3e-3), steps=150
    )

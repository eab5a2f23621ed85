"""Gradients that grow on their way back, or arrive a thousandfold, while the forward pass stays in bounds."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, gradient_norm, gradients, randn, root, sgd
from corpus.measure import BLOWN, gradient_ratio
from corpus.parts import Mlp, blobs, classify, flat_digits, regress, surface
from torch import Tensor, nn


class _Amplify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, given: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * given, None


class Boost(nn.Module):
    """Passes its input on; multiplies what comes back."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return _Amplify.apply(x, self.factor)


class Boosted(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(64 if k == 0 else 32, 32), nn.LayerNorm(32), nn.SiLU(), Boost(factor))
            for k in range(5)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


@case("s_explode_gradient_boost_per_stage")
def _() -> Case:
    """A function that multiplies the gradient by twelve, put behind each of five stages."""
    c = Case(
        family="explode-depth",
        build=lambda: Boosted(12.0),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(0.02),
        steps=40,
        expect=(root("exploding-gradient", r"stages\.\d(\.\d)?"), *BLOWN),
        fix=lambda: c.but(build=lambda: Boosted(1.0), optimizer=sgd(0.2), steps=80),
        verify=gradient_ratio(r"stages\.0\.0\.weight", r"head\.weight", above=1e3),
    )
    return c


class Towers(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 16))
        self.right = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 16))
        self.temperature = temperature

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.normalize(self.left(a), dim=1) @ F.normalize(self.right(b), dim=1).T / self.temperature


def _views(step: int) -> tuple[Tensor, Tensor]:
    a = randn(48, 6, step=step, salt=21)
    return a, a.flip(1) + 0.2 * randn(48, 6, step=step, salt=22)


def _match(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(*data), torch.arange(len(data[0])))


@case("s_explode_contrastive_temperature")
def _() -> Case:
    """Cosines divided by a temperature of 1e-3: the gradient is a thousandfold, and SGD takes it as it is."""

    def verify(k: Case) -> dict[str, object]:
        norm = gradient_norm(gradients(k)[1])
        return {"norm": norm, "sick": norm > 50}

    c = Case(
        family="explode-depth",
        build=lambda: Towers(1e-3),
        batch=_views,
        loss=_match,
        optimizer=sgd(0.1, momentum=0.9),
        steps=80,
        expect=(
            root("exploding-gradient", r"|(left|right)(\.\d)?"),
            root("update-too-large", r"(left|right)(\.\d)?"),
            *BLOWN,
            also("zero-loss-gradient"),
            also("rank-collapse"),
        ),
        fix=lambda: c.but(build=lambda: Towers(0.1), steps=150),
        verify=verify,
        seed=2,
    )
    return c


class Sine(nn.Module):
    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)


@case("s_explode_sine_frequency_in_every_layer")
def _() -> Case:
    """sin(30·x) in seven hidden layers, whose weights are not divided by 30: bounded values, slopes to the seventh."""
    c = Case(
        family="explode-depth",
        build=lambda: Mlp([6] + [32] * 7 + [1], lambda: Sine(30.0)),
        batch=surface,
        loss=regress,
        optimizer=adam(1e-3),
        steps=60,
        expect=(root("exploding-gradient", r"(layers|acts)\.\d"), *BLOWN),
        fix=lambda: c.but(build=lambda: Mlp([6] + [32] * 3 + [1], lambda: Sine(1.0)), steps=120),
        verify=gradient_ratio(r"layers\.0\.weight", r"head\.weight", above=1e4),
    )
    return c


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@case("s_explode_squared_activations")
def _() -> Case:
    """Five layers that square: the slope grows with the value, and the value with the depth."""

    def wide(layer: nn.Linear) -> None:
        nn.init.normal_(layer.weight, std=1.6 * layer.in_features**-0.5)

    c = Case(
        family="explode-depth",
        build=lambda: Mlp([8] + [24] * 5 + [4], Square, wide),
        batch=blobs,
        loss=classify,
        optimizer=sgd(1e-4),
        steps=40,
        expect=(
            root("exploding-gradient", r"(layers|acts)\.\d|head|"),
            root("forward-variance-explosion", r"(layers|acts)\.\d|head"),
            *BLOWN,
        ),
        fix=lambda: c.but(build=lambda: Mlp([8] + [24] * 3 + [4], nn.ReLU), optimizer=sgd(0.1), steps=80),
        verify=gradient_ratio(r"layers\.0\.weight", "^$", above=1e305),
    )

    def verify(k: Case) -> dict[str, object]:
        norm = gradient_norm(gradients(k)[1])
        return {"norm": norm, "sick": not norm < 1e4}

    c.verify = verify
    return c

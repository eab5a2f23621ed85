"""Gradients that grow on their way back, or arrive a thousandfold, while the forward pass stays in bounds."""

import math

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, gradient_norm, gradient_rms, gradients, randn, rms, root, sgd
from corpus.measure import BLOWN, gradient_ratio
from corpus.parts import Mlp, blobs, classify, digits, flat_digits, regress, surface, tokens
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


class TinyEmbedding(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(16, 32), nn.LayerNorm(32, eps=1e-12)
        self.mix, self.act, self.out = nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 2)
        nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.act(self.mix(self.norm(self.embedding(ids)))).mean(1))


@case("s_explode_norm_over_tiny_embedding")
def _() -> Case:
    """Embeddings of size 1e-5 go straight into a layer norm, which multiplies their gradient by 1e5."""

    def verify(k: Case) -> dict[str, object]:
        found = gradients(k)[1]
        ratio = gradient_rms(found, r"embedding\.") / gradient_rms(found, r"mix\.weight")
        return {"embedding_over_mix": ratio, "sick": ratio > 1e3}

    c = Case(
        family="explode-depth",
        build=lambda: TinyEmbedding(1e-5),
        batch=tokens,
        loss=classify,
        optimizer=sgd(0.1),
        steps=60,
        expect=(
            root("exploding-gradient", r"embedding|norm"),
            root("update-too-large", r"embedding"),
            root("forward-variance-collapse", r"embedding"),
            *BLOWN,
        ),
        fix=lambda: c.but(build=lambda: TinyEmbedding(1.0), optimizer=sgd(0.5), steps=150),
        verify=verify,
    )
    return c


class Normed(nn.Module):
    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        sizes = [64] + [width] * depth
        self.body = nn.ModuleList(
            nn.Sequential(nn.Linear(a, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()) for a in sizes[:-1]
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = block(x)
        return self.head(x)


@case("s_explode_deep_batch_norm_without_skips")
def _() -> Case:
    """Batch norm keeps the signal in order through fifty plain layers; the gradient grows by a fifth in each."""
    c = Case(
        family="explode-depth",
        build=lambda: Normed(50),
        batch=lambda step: flat_digits(step, 64),
        loss=classify,
        optimizer=sgd(0.02),
        steps=30,
        expect=(root("exploding-gradient", r"body\.\d+(\.\d)?"), *BLOWN, also("rank-collapse")),
        fix=lambda: c.but(build=lambda: Normed(3), optimizer=sgd(0.1), steps=80),
        verify=gradient_ratio(r"body\.0\.0\.weight", r"head\.weight", above=100.0),
    )
    return c


class Steep(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(a, 12, 3, padding=1) for a in (1, 12, 12))
        self.slope, self.fc = slope, nn.Linear(12 * 16, 10)

    def _bend(self, x: Tensor) -> Tensor:
        """A triangle wave: bounded by one, of constant steepness."""
        return 2 / math.pi * torch.asin(torch.sin(self.slope * x) * 0.999) if self.slope > 1 else F.silu(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self._bend(self.conv2(self._bend(self.conv1(x))))
        return self.fc(F.avg_pool2d(self._bend(self.conv3(x)), 2).flatten(1))


@case("s_explode_triangle_waves_between_convolutions")
def _() -> Case:
    """A periodic activation, bounded by one, forty times steeper than the identity, thrice in a row."""

    def verify(k: Case) -> dict[str, object]:
        found = gradients(k)[1]
        ratio = rms(found["conv1.weight"]) / rms(found["fc.weight"])
        return {"first_over_last": ratio, "sick": ratio > 300}

    c = Case(
        family="explode-depth",
        build=lambda: Steep(40.0),
        batch=digits,
        loss=classify,
        optimizer=sgd(0.01, momentum=0.9),
        steps=50,
        expect=(root("exploding-gradient", r"|conv[123]"), root("update-too-large", r"conv[123]"), *BLOWN),
        fix=lambda: c.but(build=lambda: Steep(1.0), optimizer=adam(5e-3), steps=100),
        verify=verify,
        seed=4,
    )
    return c


@case("s_explode_regression_targets_unscaled")
def _() -> Case:
    """Targets in the hundred thousands under a squared error: SGD's rate was chosen for units."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = surface(step, 32)
        return x, 2e5 * y

    def verify(k: Case) -> dict[str, object]:
        norm = gradient_norm(gradients(k)[1])
        return {"norm": norm, "sick": norm > 1e3}

    c = Case(
        family="explode-depth",
        build=lambda: Mlp([6, 64, 64, 1], nn.Tanh),
        batch=batch,
        loss=regress,
        optimizer=sgd(0.01),
        steps=40,
        expect=(
            root("exploding-gradient"),
            root("update-too-large"),
            *BLOWN,
            also("vanishing-gradient"),
            also("constant-output"),
        ),
        fix=lambda: c.but(batch=lambda step: surface(step, 32), optimizer=sgd(0.1), steps=150),
        verify=verify,
    )
    return c

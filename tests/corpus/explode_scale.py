"""Gradients a thousandfold by a norm over next to nothing, by depth without skips, by steep waves, by large targets."""

import math

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, gradient_norm, gradient_rms, gradients, rms, root, sgd
from corpus.measure import BLOWN, gradient_ratio
from corpus.parts import Mlp, classify, digits, flat_digits, regress, surface, tokens
from torch import Tensor, nn


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

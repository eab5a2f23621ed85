"""Gradients that decay on the way to the early layers."""

from itertools import pairwise

import torch
from corpus.case import Case, adam, adamw, also, case, root, sgd
from corpus.measure import STALLS, gradient_ratio
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, reconstruct, regress, surface, tokens
from torch import Tensor, nn

CONSEQUENCES = (*STALLS, also("constant-output"), also("forward-variance-collapse"), also("rank-collapse"))


class Autoencoder(nn.Module):
    def __init__(self, depth: int, act: type[nn.Module]) -> None:
        super().__init__()
        sizes = [64] + [40] * depth + [12]
        down = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), act())]
        sizes.reverse()
        up = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), act())]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@case("s_vanish_sigmoid_autoencoder")
def _() -> Case:
    """Twelve sigmoids between pixel and pixel: each divides the gradient by four at least."""
    c = Case(
        family="vanish-depth",
        build=lambda: Autoencoder(5, nn.Sigmoid),
        batch=flat_digits,
        loss=reconstruct,
        optimizer=adam(1e-3),
        steps=80,
        expect=(root("vanishing-gradient", r"(encoder|decoder)(\.\d+)?"), *CONSEQUENCES),
        fix=lambda: c.but(build=lambda: Autoencoder(1, nn.SiLU), steps=150, optimizer=adam(3e-3)),
        verify=gradient_ratio(r"encoder\.0\.weight", r"decoder\.10\.weight|decoder\.2\.weight", below=1e-3),
    )
    return c


@case("s_vanish_sigmoid_convnet")
def _() -> Case:
    """Nine convolutions with sigmoids, and nothing to carry the gradient past them."""
    c = Case(
        family="vanish-depth",
        build=lambda: ConvNet(9, 10, nn.Sigmoid),
        batch=digits,
        loss=classify,
        optimizer=sgd(0.1, momentum=0.9),
        steps=50,
        expect=(root("vanishing-gradient", r"(convs|acts)\.\d"), *CONSEQUENCES),
        fix=lambda: c.but(build=lambda: ConvNet(3, 10), steps=100, optimizer=adam(5e-3)),
        verify=gradient_ratio(r"convs\.0\.weight", r"fc\.weight", below=1e-5),
    )
    return c


@case("s_vanish_sigmoid_tower_wide")
def _() -> Case:
    """A regression tower of sixteen logistic layers of width 96."""
    c = Case(
        family="vanish-depth",
        build=lambda: Mlp([6] + [96] * 16 + [1], nn.Sigmoid),
        batch=lambda step: surface(step, 128),
        loss=regress,
        optimizer=adamw(1e-3),
        steps=50,
        expect=(root("vanishing-gradient", r"(layers|acts)\.\d+"), *CONSEQUENCES),
        fix=lambda: c.but(build=lambda: Mlp([6, 96, 96, 1], nn.SiLU), optimizer=adamw(3e-3), steps=120),
        verify=gradient_ratio(r"layers\.0\.weight", r"head\.weight", below=1e-6),
        seed=3,
    )
    return c


@case("s_vanish_hidden_softmax")
def _() -> Case:
    """Softmax where a rectifier was meant, in six hidden layers: its slope is about one in the width."""
    c = Case(
        family="vanish-depth",
        build=lambda: Mlp([8] + [48] * 6 + [4], lambda: nn.Softmax(dim=-1)),
        batch=blobs,
        loss=classify,
        optimizer=adam(2e-3),
        steps=80,
        expect=(
            root("vanishing-gradient", r"(layers|acts)\.\d+"),
            root("forward-variance-collapse", r"(layers|acts)\.\d+"),
            *CONSEQUENCES,
        ),
        fix=lambda: c.but(build=lambda: Mlp([8] + [48] * 3 + [4]), steps=100),
        verify=gradient_ratio(r"layers\.0\.weight", r"head\.weight", below=1e-6),
    )
    return c


class Attend(nn.Module):
    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.norm is None else self.norm(x)
        weights = (self.q(h) @ self.k(h).transpose(1, 2) * h.shape[-1] ** -0.5).softmax(-1)
        mixed = self.out(weights @ self.v(h))
        return mixed if self.norm is None else x + mixed


class Reader(nn.Module):
    def __init__(self, depth: int, skip: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 24)
        self.blocks = nn.ModuleList(Attend(24, skip) for _ in range(depth))
        self.head = nn.Linear(24, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@case("s_vanish_attention_without_skips")
def _() -> Case:
    """Eight attention layers on top of each other, with neither residual nor feed-forward."""
    c = Case(
        family="vanish-depth",
        build=lambda: Reader(8, skip=False),
        batch=tokens,
        loss=classify,
        optimizer=adam(1e-3),
        steps=50,
        expect=(
            root("vanishing-gradient", r"embed|blocks\.\d(\.\w+)?"),
            root("rank-collapse", r"blocks\.\d(\.\w+)?"),
            root("forward-variance-collapse", r"blocks\.\d(\.\w+)?"),
            *CONSEQUENCES,
        ),
        fix=lambda: c.but(build=lambda: Reader(2, skip=True), steps=120, optimizer=adam(3e-3)),
        verify=gradient_ratio(r"blocks\.0\.v\.weight", r"head\.weight", below=1e-3),
    )
    return c


class _Soften(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor, keep: float) -> Tensor:
        ctx.keep = keep
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, given: Tensor) -> tuple[Tensor, None]:
        return ctx.keep * given, None


class Stage(nn.Module):
    def __init__(self, width: int, keep: float) -> None:
        super().__init__()
        self.lin, self.act, self.norm, self.keep = nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), keep

    def forward(self, x: Tensor) -> Tensor:
        return (
            self.norm(x + self.act(self.lin(_Soften.apply(x, self.keep))))
            if self.keep == 1.0
            else self.norm(_Soften.apply(x + self.act(self.lin(x)), self.keep))
        )


class Staged(nn.Module):
    def __init__(self, keep: float, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.stages = nn.Sequential(*(Stage(32, keep) for _ in range(depth)))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))


@case("s_vanish_gradient_scaled_per_stage")
def _() -> Case:
    """Every stage multiplies what comes back by 0.03, meant for one place only: the stem gets 1e-9 of it."""
    c = Case(
        family="vanish-depth",
        build=lambda: Staged(0.03),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(0.1),
        steps=80,
        expect=(root("vanishing-gradient", r"stem|stages(\.\d(\.\w+)?)?"), *CONSEQUENCES),
        fix=lambda: c.but(build=lambda: Staged(1.0)),
        verify=gradient_ratio(r"stem\.weight", r"head\.weight", below=1e-6),
    )
    return c


class Blend(nn.Module):
    """The gradient of the input is let through by a twentieth."""

    def __init__(self, width: int, open_: float) -> None:
        super().__init__()
        self.conv, self.act, self.open = nn.Conv1d(width, width, 3, padding=1), nn.SiLU(), open_
        self.norm = nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.open * x + (1 - self.open) * x.detach()
        return self.norm(x + self.act(self.conv(x)))


class Rows(nn.Module):
    def __init__(self, open_: float) -> None:
        super().__init__()
        self.stem = nn.Conv1d(8, 16, 3, padding=1)
        self.trunk = nn.ModuleList(Blend(16, open_) for _ in range(7))
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.squeeze(1))
        for block in self.trunk:
            x = block(x)
        return self.classifier(x.amax(2))


@case("s_vanish_mostly_detached_blocks")
def _() -> Case:
    """A 'stabilising' x·0.05 + x.detach()·0.95 in each of seven residual blocks."""
    c = Case(
        family="vanish-depth",
        build=lambda: Rows(0.05),
        batch=digits,
        loss=classify,
        optimizer=sgd(0.05, momentum=0.9),
        steps=60,
        expect=(root("vanishing-gradient", r"stem|trunk\.\d(\.\w+)?"), *CONSEQUENCES),
        fix=lambda: c.but(build=lambda: Rows(1.0)),
        verify=gradient_ratio(r"stem\.weight", r"classifier\.weight", below=1e-6),
        seed=5,
    )
    return c


@case("s_vanish_plain_relu_default_init_20")
def _() -> Case:
    """Twenty plain rectifier layers with the library's default init, which shrinks signal and gradient."""
    both = r"(layers|acts)\.\d+"
    c = Case(
        family="vanish-depth",
        build=lambda: Mlp([64] + [48] * 20 + [10]),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(1e-4),
        steps=60,
        expect=(root("vanishing-gradient", both), root("forward-variance-collapse", both), *CONSEQUENCES),
        fix=lambda: c.but(build=lambda: Mlp([64] + [48] * 3 + [10]), optimizer=adam(2e-3), steps=100),
        verify=gradient_ratio(r"layers\.0\.weight", r"head\.weight", below=1e-5),
    )
    return c

"""Modules that say the same, whatever they are given."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, root, sgd
from corpus.measure import BLOCKED, outputs
from corpus.parts import blobs, classify, digits, flat_digits, regress, surface, tokens
from torch import Tensor, nn

DEAF = (*BLOCKED, also("rank-collapse"), also("dead-units"), also("zero-loss-gradient"))


def same_for_all(name: str):
    """Whether the output does not vary over the samples (to 1e-4 of its size)."""

    def verify(k: Case) -> dict[str, object]:
        out = outputs(k, name)[0].detach().double()
        apart = float((out - out[:1]).abs().max())
        return {"apart": apart, "sick": apart <= 1e-4 * max(float(out.abs().max()), 1.0)}

    return verify


class Normed(nn.Module):
    def __init__(self, zero: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(12)
        self.fc = nn.Linear(192, 10)
        if zero:
            nn.init.zeros_(self.bn2.weight)
            self.bn2.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(F.silu(self.bn2(self.conv2(x))).flatten(1))


@case("s_constant_batch_norm_gamma_zero_and_frozen")
def _() -> Case:
    """A batch norm whose γ is zero, frozen, and on the only path: classes get their frequencies."""
    c = Case(
        family="constant",
        build=lambda: Normed(True),
        batch=digits,
        loss=classify,
        optimizer=adam(3e-3),
        steps=50,
        expect=(root("constant-output", r"bn2"), root("no-gradient", r"conv1|bn1|conv2"), *DEAF),
        fix=lambda: c.but(build=lambda: Normed(False)),
        verify=same_for_all("bn2"),
    )
    return c


class Scalar(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 48), nn.SiLU(), nn.Linear(48, 1))
        self.norm = nn.LayerNorm(1) if norm else nn.Identity()
        self.scale = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.norm(self.tower(x)))


@case("s_constant_layer_norm_over_one_feature")
def _() -> Case:
    """A layer norm over a single feature: what is left of it after the mean is taken off is zero."""
    c = Case(
        family="constant",
        build=lambda: Scalar(True),
        batch=surface,
        loss=regress,
        optimizer=adam(5e-3),
        steps=60,
        expect=(root("constant-output", r"norm"), root("no-gradient", r"tower(\.\d)?|norm"), *DEAF),
        fix=lambda: c.but(build=lambda: Scalar(False), steps=100),
        verify=same_for_all("norm"),
    )
    return c


class Grouped(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.group_norm, self.act = nn.GroupNorm(groups, 32), nn.GELU()
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.group_norm(self.stem(x))))


@case("s_constant_group_norm_one_value_per_group")
def _() -> Case:
    """As many groups as channels, on vectors without a spatial extent: each group is one value, and becomes zero."""
    c = Case(
        family="constant",
        build=lambda: Grouped(32),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(0.1, momentum=0.9),
        steps=50,
        expect=(root("constant-output", r"group_norm|act"), root("no-gradient", r"stem"), *DEAF),
        fix=lambda: c.but(build=lambda: Grouped(4)),
        verify=same_for_all("group_norm"),
    )
    return c


class Masked(nn.Module):
    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.features, self.act = nn.Linear(8, 48), nn.Tanh()
        self.register_buffer("mask", torch.full((48,), float(keep)))
        self.pruned, self.head = nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.pruned(self.mask * self.act(self.features(x)))))


@case("s_constant_pruning_mask_all_zero")
def _() -> Case:
    """A pruning mask that was registered as zeros and never filled."""
    c = Case(
        family="constant",
        build=lambda: Masked(False),
        batch=blobs,
        loss=classify,
        optimizer=adam(3e-3),
        steps=50,
        expect=(root("constant-output", r"pruned|"), root("no-gradient", r"features|pruned"), *DEAF),
        fix=lambda: c.but(build=lambda: Masked(True)),
        verify=same_for_all("pruned"),
    )
    return c


class AttentionPool(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score, self.softmax = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Softmax(dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        return (self.softmax(self.score(x)) * x).sum(1)


class PooledText(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed, self.pool, self.head = nn.Embedding(16, 24), AttentionPool(dim), nn.Linear(24, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.pool(self.embed(ids)))


@case("s_constant_softmax_over_one_score")
def _() -> Case:
    """Pooling by attention with softmax over the last dimension, which has size one: all weights are one."""
    c = Case(
        family="constant",
        build=lambda: PooledText(-1),
        batch=tokens,
        loss=classify,
        optimizer=adam(3e-3),
        steps=60,
        expect=(
            root("constant-output", r"pool\.softmax"),
            root("no-gradient", r"pool\.score(\.\d)?"),
            *DEAF,
            also("saturation"),
        ),
        fix=lambda: c.but(build=lambda: PooledText(1), optimizer=adam(5e-3), steps=100),
        verify=same_for_all("pool.softmax"),
    )
    return c


class Spam(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.hidden, self.act, self.logit = nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1)
        self.probability = nn.Softmax(dim=1) if wrong else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.probability(self.logit(self.act(self.hidden(x))))


@case("s_constant_softmax_on_one_logit")
def _() -> Case:
    """A binary classifier with one logit under a softmax: the probability is one for everybody."""
    c = Case(
        family="constant",
        build=lambda: Spam(True),
        batch=surface,
        loss=lambda m, b: F.binary_cross_entropy(m(b[0]).clamp(1e-6, 1 - 1e-6), (b[1] > 0).float()),
        optimizer=adam(5e-3),
        steps=50,
        expect=(
            root("constant-output", r"|probability"),
            root("zero-loss-gradient"),
            root("no-gradient"),
            *DEAF,
            also("saturation"),
        ),
        fix=lambda: c.but(build=lambda: Spam(False), steps=80),
        verify=same_for_all("probability"),
    )
    return c


class Dropped(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.fc1, self.act, self.drop = nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))


@case("s_constant_dropout_of_everything")
def _() -> Case:
    """The probability to keep, one, was given to a module that asks for the probability to drop."""
    c = Case(
        family="constant",
        build=lambda: Dropped(1.0),
        batch=lambda step: flat_digits(step, 128),
        loss=classify,
        optimizer=sgd(0.05, momentum=0.9),
        steps=40,
        expect=(root("constant-output", r"drop|fc2"), root("no-gradient", r"fc1|drop"), *DEAF),
        fix=lambda: c.but(build=lambda: Dropped(0.1)),
        verify=same_for_all("drop"),
    )
    return c

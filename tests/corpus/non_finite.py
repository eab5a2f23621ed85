"""Infinities and NaNs, at the module that makes them."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, randn, root
from corpus.measure import becomes_nan
from corpus.parts import Mlp, blobs, classify, regress, surface, tokens
from torch import Tensor, nn

AFTER = (also("non-finite"), also("loss-divergence"), also("exploding-gradient"), also("update-too-large"))


class Entropy(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, p: Tensor) -> Tensor:
        return -(p * (p + self.eps).log()).sum(-1).mean()


class Policy(nn.Module):
    def __init__(self, eps: float, gain: float) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
        self.entropy = Entropy(eps)
        self.trunk[2].weight.data.mul_(gain)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.trunk(x)
        return logits, self.entropy(logits.softmax(-1))


@case("s_nan_entropy_of_zero_probability")
def _() -> Case:
    """p·log p by hand: where a probability underflows to zero, 0·(−inf) is NaN."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        logits, entropy = model(data[0])
        return F.cross_entropy(logits, data[1]) - 0.01 * entropy

    def far(step: int) -> tuple[Tensor, Tensor]:
        x, y = blobs(step)
        return 2 * x if step >= 4 else 0.05 * x, y

    c = Case(
        family="non-finite",
        build=lambda: Policy(0.0, 60.0),
        batch=far,
        loss=loss,
        optimizer=adam(1e-3),
        steps=20,
        expect=(root("non-finite", "entropy"), *AFTER, also("saturation"), also("forward-variance-explosion")),
        fix=lambda: c.but(build=lambda: Policy(1e-8, 1.0), batch=blobs, optimizer=adam(5e-3), steps=80),
        verify=becomes_nan,
    )
    return c


class Distance(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).pow(2).sum(1) + self.eps).sqrt()


class Twins(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8, bias=False))
        self.distance = Distance(eps)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(self.tower(a), self.tower(b))


@case("s_nan_distance_of_identical_pairs")
def _() -> Case:
    """The root of a squared distance of zero: its slope is 0·inf. Identical pairs come from step 6 on."""

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        a, noise = randn(40, 6, step=step, salt=51), randn(40, 6, step=step, salt=52)
        same = torch.arange(40) % 2
        near = a if step >= 6 else a + 0.1 * noise
        return a, torch.where(same[:, None] == 1, near, noise), same

    def contrast(model: nn.Module, data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        d = model(data[0], data[1])
        return torch.where(data[2] == 1, d.pow(2), (3 - d).clamp(min=0).pow(2)).mean()

    c = Case(
        family="non-finite",
        build=lambda: Twins(0.0),
        batch=batch,
        loss=contrast,
        optimizer=adam(3e-3),
        steps=25,
        expect=(root("non-finite", r"distance|tower(\.2)?"), *AFTER),
        fix=lambda: c.but(build=lambda: Twins(1e-6), steps=80),
        verify=becomes_nan,
    )
    return c


class Normalise(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.sum(1, keepdim=True) + self.eps)


class Topics(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.frequencies = Normalise(eps)
        self.encoder, self.act, self.classifier = nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2)

    def forward(self, counts: Tensor) -> Tensor:
        return self.classifier(self.act(self.encoder(8 * self.frequencies(counts))))


@case("s_nan_empty_document_normalised")
def _() -> Case:
    """Word counts divided by their sum: an empty document is 0/0. One comes at step 8."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        counts = randn(48, 12, step=step, salt=53).clamp(min=0)
        y = (counts[:, :3].sum(1) > counts[:, 3:6].sum(1)).long()
        if step == 8:
            counts[5] = 0
        return counts, y

    c = Case(
        family="non-finite",
        build=lambda: Topics(0.0),
        batch=batch,
        loss=classify,
        optimizer=adam(1e-2),
        steps=25,
        expect=(root("non-finite", r"frequencies"), *AFTER),
        fix=lambda: c.but(build=lambda: Topics(1e-6), steps=80),
        verify=becomes_nan,
    )
    return c


class Softmax(nn.Module):
    """exp over the sum of exps, with or without the largest taken off first."""

    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        e = (x - x.amax(-1, keepdim=True) if self.safe else x).exp()
        return e / e.sum(-1, keepdim=True)


class Mixture(nn.Module):
    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.score, self.softmax = nn.Linear(6, 4), Softmax(safe)
        self.experts = nn.ModuleList(Mlp([6, 16, 1]) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.softmax(self.score(x) * 8)
        return (weight * torch.cat([expert(x) for expert in self.experts], 1)).sum(1, keepdim=True)


@case("s_nan_softmax_by_hand_overflows")
def _() -> Case:
    """exp without taking the largest off: an outlier at step 10 gives inf/inf in the gate of a mixture."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = surface(step)
        if step == 10:
            x[7] *= 200
        return x, y

    c = Case(
        family="non-finite",
        build=lambda: Mixture(False),
        batch=batch,
        loss=regress,
        optimizer=adam(1e-3),
        steps=25,
        expect=(root("non-finite", "softmax"), *AFTER),
        fix=lambda: c.but(
            build=lambda: Mixture(True),
            batch=lambda step: surface(step),
            optimizer=adam(1e-2),
            steps=80,
        ),
        verify=becomes_nan,
    )
    return c


class MaskedAttention(nn.Module):
    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.embed, self.safe = nn.Embedding(16, 24, padding_idx=0), safe
        self.qkv, self.proj, self.head = nn.Linear(24, 72), nn.Linear(24, 24), nn.Linear(24, 2)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.embed(ids)).chunk(3, -1)
        scores = q @ k.transpose(1, 2) * 24**-0.5
        scores = scores.masked_fill((ids == 0)[:, None], -1e9 if self.safe else float("-inf"))
        return self.head(torch.relu(self.proj(scores.softmax(-1) @ v)).mean(1))


@case("s_nan_attention_over_padding_only")
def _() -> Case:
    """A sentence of padding alone, at step 7: every score is −inf, and the softmax of that is NaN."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        ids, y = tokens(step)
        if step == 7:
            ids = ids.clone()
            ids[3] = 0
        return ids, y

    c = Case(
        family="non-finite",
        build=lambda: MaskedAttention(False),
        batch=batch,
        loss=classify,
        optimizer=adam(5e-3),
        steps=20,
        expect=(root("non-finite", "|proj"), *AFTER),
        fix=lambda: c.but(build=lambda: MaskedAttention(True), steps=120),
        verify=becomes_nan,
    )
    return c

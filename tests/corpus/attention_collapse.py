"""Attention that looks at one token, and cannot learn to look elsewhere."""

import torch
from corpus.case import Case, adam, also, case, prepare, randn, root, sgd
from corpus.measure import STALLS, outputs
from corpus.parts import classify, tokens
from torch import Tensor, nn

FIXED = (
    *STALLS,
    also("saturation"),
    also("exploding-gradient"),
    also("forward-variance-explosion"),
    also("rank-collapse"),
    also("no-gradient"),
)


def _entropy(weights: Tensor) -> float:
    """Of the weights over the last dimension, as a share of the largest possible."""
    h = -(weights * (weights + 1e-12).log()).sum(-1).mean()
    return float(h / torch.tensor(float(weights.shape[-1])).log())


class Weigh(nn.Module):
    """The attention's weights."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return (self.scale * q @ k.transpose(-1, -2)).softmax(-1)


class Block(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.weigh = Weigh(scale * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.out(self.weigh(self.query(h), self.key(h)) @ self.value(h))


class Own(nn.Module):
    def __init__(self, scale: float, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.pos = nn.Embedding(16, 32), nn.Parameter(0.3 * torch.randn(12, 32))
        self.blocks = nn.Sequential(*(Block(32, scale) for _ in range(depth)))
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(ids) + self.pos).mean(1))


def _peaked(name: str, *, below: float = 0.15):
    def verify(k: Case) -> dict[str, object]:
        share = _entropy(outputs(k, name)[0].detach())
        return {"entropy_share": share, "sick": share < below}

    return verify


@case("s_peaked_scores_times_100")
def _() -> Case:
    """Scores multiplied by √d where they should have been divided, and more: one-hot from the first step."""
    c = Case(
        family="attention",
        build=lambda: Own(100.0),
        batch=tokens,
        loss=classify,
        optimizer=adam(1e-3),
        steps=60,
        expect=(root("attention-collapse", r"blocks(\.\d(\.(weigh|query|key))?)?|"), *FIXED),
        fix=lambda: c.but(build=lambda: Own(1.0), optimizer=adam(3e-3), steps=80),
        verify=_peaked("blocks.0.weigh"),
    )
    return c


class Pooled(nn.Module):
    """A learned query reads a sequence; the label hangs on what stands beside a mark."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 2)
        self.attention.in_proj_weight.data[:64] *= gain

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        mixed, self.weights = self.attention(x, x, x, average_attn_weights=False)
        return self.head(self.norm(mixed.mean(1)))


@case("s_peaked_multihead_projections_large")
def _() -> Case:
    """Queries and keys of a multi-head attention are drawn ten times too large each: scores in the hundreds."""

    def verify(k: Case) -> dict[str, object]:
        model, _ = prepare(k)
        model(k.batch(0)[0])
        share = _entropy(model.weights.detach())
        return {"entropy_share": share, "sick": share < 0.15}

    c = Case(
        family="attention",
        build=lambda: Pooled(10.0),
        batch=tokens,
        loss=classify,
        optimizer=adam(5e-4),
        steps=60,
        expect=(root("attention-collapse", r"attention|"), *FIXED),
        fix=lambda: c.but(build=lambda: Pooled(1.0), optimizer=adam(3e-3), steps=80),
        verify=verify,
    )
    return c


class CrossAttention(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(8, 16)
        self.weights = Weigh(1 / (32**0.5 * temperature))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        return self.weights(self.to_q(query), self.to_k(memory)) @ self.to_v(memory)


class Retriever(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.cross, self.head = CrossAttention(temperature), nn.Linear(16, 1)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        return self.head(self.cross(query[:, None], memory).squeeze(1))


def _mean_of_memory(step: int) -> tuple[Tensor, Tensor, Tensor]:
    query, memory = randn(64, 8, step=step, salt=71), randn(64, 20, 8, step=step, salt=72)
    return query, memory, memory[..., :2].mean(1).sum(1, keepdim=True)


@case("s_peaked_cross_attention_temperature")
def _() -> Case:
    """A temperature of 0.005 in cross-attention: one of twenty memories is read, and the task is their mean."""
    c = Case(
        family="attention",
        build=lambda: Retriever(0.005),
        batch=_mean_of_memory,
        loss=lambda m, b: (m(b[0], b[1]) - b[2]).pow(2).mean(),
        optimizer=sgd(0.05),
        steps=80,
        expect=(root("attention-collapse", r"cross(\.(weights|to_q|to_k))?"), *FIXED),
        fix=lambda: c.but(build=lambda: Retriever(1.0), optimizer=adam(5e-3), steps=150),
        verify=_peaked("cross.weights"),
    )
    return c


@case("s_peaked_raw_dot_products_wide_heads")
def _() -> Case:
    """Three layers whose scores are unscaled products of queries and keys drawn with unit weights."""

    def build(raw: bool) -> nn.Module:
        model = Own(32**0.5 if raw else 1.0, 3)
        for block in model.blocks if raw else ():
            for layer in (block.query, block.key):
                nn.init.normal_(layer.weight)
        return model

    c = Case(
        family="attention",
        build=lambda: build(True),
        batch=lambda step: tokens(step, 48),
        loss=classify,
        optimizer=sgd(0.02, momentum=0.9),
        steps=50,
        expect=(root("attention-collapse", r"blocks(\.\d(\.(weigh|query|key))?)?|"), *FIXED),
        fix=lambda: c.but(build=lambda: build(False), optimizer=adam(2e-3), steps=60),
        verify=_peaked("blocks.1.weigh"),
        seed=6,
    )
    return c

"""Representations of different samples or tokens that point the same way."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, randn, root, sgd, train
from corpus.measure import BLOCKED, outputs
from corpus.parts import Mlp, blobs, classify, flat_digits, he, surface, tokens
from torch import Tensor, nn

SAME = (*BLOCKED, also("rank-collapse"), also("symmetric-init"), also("zero-loss-gradient"))


def cosine(rows: Tensor) -> float:
    """Mean cosine between different rows."""
    unit = F.normalize(rows.detach().double(), dim=-1)
    n = unit.shape[-2]
    return float(((unit @ unit.transpose(-1, -2)).sum((-1, -2)) - n).mean() / (n * (n - 1)))


def aligned(name: str, *, above: float = 0.99, after: int = 0):
    """Whether what `name` returns for different samples (tokens of one sample) has that mean cosine."""

    def verify(k: Case) -> dict[str, object]:
        model = train(k, steps=after)[0] if after else None
        mean = cosine(outputs(k, name, model=model)[0])
        return {"cosine": mean, "sick": mean > above}

    return verify


class Mixer(nn.Module):
    """Attention and feed-forward, with or without the way around them."""

    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm1, self.norm2, self.skip = nn.LayerNorm(width), nn.LayerNorm(width), skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.skip * x + self.attn(x, x, x, need_weights=False)[0])
        return self.norm2(self.skip * x + self.ffn(x))


class Stack(nn.Module):
    def __init__(self, depth: int, skip: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 24)
        self.layers = nn.ModuleList(Mixer(24, skip) for _ in range(depth))
        self.head = nn.Linear(24, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x).squeeze(-1)


def _mark(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    """Every token says whether it is one of the marked words."""
    return F.binary_cross_entropy_with_logits(model(data[0]), (data[0] < 6).float())


@case("s_rank_attention_layers_without_skips")
def _() -> Case:
    """Six layers of attention and feed-forward, normed but without residuals: all tokens become one."""
    c = Case(
        family="collapse",
        build=lambda: Stack(6, False),
        batch=tokens,
        loss=_mark,
        optimizer=adam(5e-4),
        steps=40,
        expect=(root("rank-collapse", r"layers\.\d+(\.\w+(\.\w+)?)?"), *SAME),
        fix=lambda: c.but(build=lambda: Stack(2, True), optimizer=adam(2e-3), steps=50),
        verify=aligned("layers.1"),
    )
    return c


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.projector = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(self.encoder(x)), dim=1)


def _pairs(step: int) -> tuple[Tensor, Tensor]:
    x, _ = blobs(step, 96)
    return x, x + 0.3 * randn(96, 8, step=step, salt=81)


@case("s_rank_siamese_without_negatives")
def _() -> Case:
    """Two views are drawn together and nothing holds others apart: all are mapped to one direction, at loss zero."""

    def together(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return (model(data[0]) - model(data[1])).pow(2).sum(1).mean()

    def contrast(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(data[0]) @ model(data[1]).T / 0.2, torch.arange(96))

    c = Case(
        family="collapse",
        build=Siamese,
        batch=_pairs,
        loss=together,
        optimizer=adam(5e-3),
        steps=120,
        expect=(
            root("rank-collapse", r"|projector|encoder(\.\d)?"),
            root("constant-output", r"|projector|encoder(\.\d)?"),
            *SAME,
            also("dead-units"),
        ),
        fix=lambda: c.but(loss=contrast, optimizer=adam(3e-3), steps=120),
        verify=aligned("projector", above=0.97, after=110),
    )
    return c


class Words(nn.Module):
    def __init__(self, same: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 24)
        self.gru, self.out = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 2)
        if same:
            self.embedding.weight.data.copy_(self.embedding.weight.data[:1].expand(16, 24))

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.gru(self.embedding(ids))[0].mean(1))


@case("s_rank_embedding_rows_equal")
def _() -> Case:
    """A vocabulary whose rows were all filled with the one for 'unknown', and SGD too gentle to part them."""
    c = Case(
        family="collapse",
        build=lambda: Words(True),
        batch=tokens,
        loss=classify,
        optimizer=sgd(0.01),
        steps=60,
        expect=(
            root("rank-collapse", "embedding|gru"),
            root("symmetric-init", "embedding"),
            root("constant-output", "embedding"),
            *SAME,
        ),
        fix=lambda: c.but(build=lambda: Words(False), optimizer=adam(5e-3), steps=60),
        verify=aligned("embedding", after=50),
    )
    return c


class GraphLayer(nn.Module):
    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.lin, self.act, self.skip = nn.Linear(width, width), nn.SiLU(), skip
        he(self.lin)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        mixed = self.act(self.lin(adjacency @ x))
        return 0.5 * x + 0.5 * mixed if self.skip else mixed


class GraphNet(nn.Module):
    def __init__(self, depth: int, skip: bool) -> None:
        super().__init__()
        self.inlet = nn.Linear(6, 32)
        self.convs = nn.ModuleList(GraphLayer(32, skip) for _ in range(depth))
        self.node_head = nn.Linear(32, 1)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = self.inlet(x)
        for conv in self.convs:
            x = conv(x, adjacency)
        return self.node_head(x)


def _graph(step: int) -> tuple[Tensor, Tensor, Tensor]:
    x, y = surface(step, 40)
    near = (randn(40, 40, salt=82) > 0.8).float()
    near = ((near + near.T + torch.eye(40)) > 0).float()
    return x, near / near.sum(1, keepdim=True), y


@case("s_rank_graph_over_smoothed")
def _() -> Case:
    """Fourteen rounds of averaging over neighbours, without skips: all nodes get the same features."""
    c = Case(
        family="collapse",
        build=lambda: GraphNet(14, False),
        batch=_graph,
        loss=lambda m, b: F.mse_loss(m(b[0], b[1]), b[2]),
        optimizer=adam(1e-3),
        steps=60,
        expect=(root("rank-collapse", r"convs\.\d+(\.\w+)?"), *SAME, also("dead-units")),
        fix=lambda: c.but(build=lambda: GraphNet(2, True), optimizer=adam(1e-2), steps=150),
        verify=lambda k: aligned(f"convs.{len(k.build().convs) - 1}")(k),
    )
    return c


class Narrow(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.bottleneck, self.norm = nn.Linear(48, 16), nn.LayerNorm(16)
        self.decoder = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 10))
        self.bottleneck.bias.data += offset * torch.linspace(-1, 1, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.norm(self.bottleneck(self.encoder(x))))


@case("s_rank_bottleneck_buried_by_its_bias")
def _() -> Case:
    """A bottleneck's bias of ±2000 stands over signals of one; the norm behind it then shrinks them to nothing."""
    c = Case(
        family="collapse",
        build=lambda: Narrow(2000.0),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(1e-3),
        steps=60,
        expect=(
            root("rank-collapse", r"bottleneck|norm"),
            root("constant-output", r"bottleneck|norm"),
            root("forward-variance-collapse", r"norm"),
            *SAME,
        ),
        fix=lambda: c.but(build=lambda: Narrow(0.0), optimizer=adam(3e-3), steps=80),
        verify=aligned("bottleneck"),
    )
    return c


@case("s_rank_one_hidden_matrix")
def _() -> Case:
    """A hidden matrix was set to an outer product: whatever comes, one direction leaves it."""

    def build(flat: bool) -> nn.Module:
        model = Mlp([8, 48, 48, 4], nn.Tanh)
        if flat:
            weight = model.layers[1].weight.data
            weight.copy_(torch.outer(weight[:, 0], torch.full((48,), 0.3)))
            model.layers[1].bias.data.zero_()
            model.layers[1].weight.requires_grad_(False)
        return model

    def verify(k: Case) -> dict[str, object]:
        values = torch.linalg.svdvals(outputs(k, "layers.1")[0].detach())
        return {"second_over_first": float(values[1] / values[0]), "sick": bool(values[1] < 1e-4 * values[0])}

    c = Case(
        family="collapse",
        build=lambda: build(True),
        batch=blobs,
        loss=classify,
        optimizer=sgd(0.02),
        steps=60,
        expect=(root("rank-collapse", r"(layers|acts)\.1|head"), *SAME, also("saturation")),
        fix=lambda: c.but(build=lambda: build(False), optimizer=sgd(0.1)),
        verify=verify,
    )
    return c

"""Inputs without an order: sets, bags, graphs."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, generator, randint, randn
from corpus.tasks import cross_entropy, digits, healthy, perceptron
from torch import Tensor, nn


def clouds(step: int, count: int = 64) -> tuple[Tensor, Tensor]:
    """Twelve points on a circle, on a square or on a cross."""
    kind, turn = torch.arange(count) % 3, 6.3 * torch.rand(count, 1, generator=generator(step, 190))
    angle = 6.3 * torch.rand(count, 12, generator=generator(step, 191))
    ring = torch.stack([angle.cos(), angle.sin()], 2)
    square = ring / ring.abs().amax(2, keepdim=True)
    cross = torch.where(ring.abs() < ring.abs().amax(2, keepdim=True), 0.0, ring) * angle[..., None].sin().abs()
    points = torch.stack([ring, square, cross])[kind, torch.arange(count)]
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 2).view(-1, 2, 2)
    return points @ rotation + 0.03 * randn(count, 12, 2, step=step, salt=192), kind


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = perceptron(2, 48, 48, activation=nn.ELU), perceptron(48, 48, 3, activation=nn.ELU)

    def forward(self, points: Tensor) -> Tensor:
        return self.rho(self.phi(points).mean(1))


@case("h_deep_sets_by_mean")
def _() -> Case:
    """Every point for itself, then their mean."""
    return healthy(build=DeepSets, batch=clouds, loss=cross_entropy, optimizer=adam(4e-3), steps=200)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp1, self.mlp2 = nn.Conv1d(2, 32, 1), nn.Conv1d(32, 64, 1)
        self.bn1, self.bn2, self.head = (
            nn.BatchNorm1d(32),
            nn.BatchNorm1d(64),
            perceptron(64, 32, 3, activation=nn.SiLU),
        )

    def forward(self, points: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.mlp1(points.mT)))
        return self.head(F.relu(self.bn2(self.mlp2(x))).amax(2))


@case("h_point_net_by_maximum")
def _() -> Case:
    """The largest of twelve points speaks for each feature; biases before a BatchNorm learn nothing, harmlessly."""
    return healthy(build=PointNet, batch=clouds, loss=cross_entropy, optimizer=adam(3e-3), steps=150)


class AttentionPool(nn.Module):
    """Bags of digits, of which attention picks the telling ones."""

    def __init__(self) -> None:
        super().__init__()
        self.instance = nn.Sequential(nn.Linear(64, 48), nn.GELU())
        self.attention, self.bag = perceptron(48, 24, 1, activation=nn.Tanh), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.instance(x)
        return self.bag((self.attention(h).softmax(1) * h).sum(1))


@case("h_attention_pooling_of_bags")
def _() -> Case:
    """Is there a nought among six digits? The attention learns to look at it alone."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = digits(step, 64 * 6)
        return x.view(64, 6, 64), (y.view(64, 6) == 0).any(1).float()[:, None]

    return healthy(
        build=AttentionPool,
        batch=batch,
        loss=lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]),
        optimizer=adam(2e-3),
        steps=120,
    )


def communities(step: int, nodes: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of three communities: normalised adjacency, faint features, membership."""
    group = torch.arange(nodes) % 3
    likely = torch.where(group[:, None] == group, 0.25, 0.02)
    edges = (torch.rand(nodes, nodes, generator=generator(step, 193)) < likely).float().triu(1)
    linked = edges + edges.T + torch.eye(nodes)
    degree = linked.sum(1)
    features = F.one_hot(group, 3) + 1.5 * randn(nodes, 3, step=step, salt=194)
    return features, linked / (degree[:, None] * degree).sqrt(), group


class GraphConvolutions(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.conv1, self.conv2, self.dropout = nn.Linear(3, width), nn.Linear(width, 3), nn.Dropout(0.2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.conv2(self.dropout(F.relu(adjacency @ self.conv1(x))))


@case("h_graph_convolutions_communities")
def _() -> Case:
    """Two rounds of averages over neighbours: nodes of a community become alike, as they should."""
    return healthy(
        build=GraphConvolutions,
        batch=communities,
        loss=lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]),
        optimizer=adam(5e-3),
        steps=120,
    )


class Molecules(nn.Module):
    """Messages along edges by index_add, then a sum over the nodes of each graph."""

    def __init__(self, width: int = 32, rounds: int = 3) -> None:
        super().__init__()
        self.atom, self.rounds = nn.Embedding(5, width), rounds
        self.message = perceptron(2 * width, width, width, activation=nn.SiLU)
        self.update, self.readout = nn.GRUCell(width, width), perceptron(width, width, 1, activation=nn.SiLU)

    def forward(self, atoms: Tensor, source: Tensor, target: Tensor) -> Tensor:
        h = self.atom(atoms.flatten())
        for _ in range(self.rounds):
            sent = self.message(torch.cat([h[source], h[target]], 1))
            h = self.update(torch.zeros_like(h).index_add(0, target, sent), h)
        return self.readout(h.view(*atoms.shape, -1)).sum(1) / atoms.shape[1] ** 0.5


@case("h_message_passing_on_rings")
def _() -> Case:
    """Graphs of eight atoms in a ring; a message net and a GRU, three times the same."""
    index = torch.arange(32 * 8)
    after = index // 8 * 8 + (index + 1) % 8

    def batch(step: int) -> tuple[Tensor, Tensor]:
        atoms = randint(5, (32, 8), step=step, salt=195)
        bonds = (atoms == atoms.roll(1, 1)).float().sum(1) - (atoms == 0).float().sum(1)
        return atoms, bonds[:, None] / 2

    return healthy(
        build=Molecules,
        batch=batch,
        loss=lambda m, b: F.mse_loss(m(b[0], torch.cat([index, after]), torch.cat([after, index])), b[1]),
        optimizer=adam(4e-3),
        steps=150,
    )


class GraphAttention(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.project, self.send, self.receive = (
            nn.Linear(3, width),
            nn.Linear(width, 1),
            nn.Linear(width, 1, bias=False),
        )
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.project(x)
        scores = F.leaky_relu(self.send(h) + self.receive(h).T, 0.2).masked_fill(adjacency == 0, -torch.inf)
        return self.head(F.elu(torch.cat([h, scores.softmax(1) @ h], 1)))


@case("h_graph_attention_masked")
def _() -> Case:
    """Attention to neighbours only; all else is −∞ before the softmax."""
    return healthy(
        build=GraphAttention,
        batch=communities,
        loss=lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]),
        optimizer=adamw(5e-3),
        steps=150,
    )


@case("h_mixer_of_tokens_and_channels")
def _() -> Case:
    """Rows of a digit are mixed with each other, then within themselves."""

    class Mixer(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.embed, self.norm1, self.norm2 = nn.Linear(8, width), nn.LayerNorm(width), nn.LayerNorm(width)
            self.tokens = perceptron(8, 32, 8, activation=nn.GELU)
            self.channels = perceptron(width, 64, width, activation=nn.GELU)
            self.head = nn.Linear(width, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x.view(-1, 8, 8))
            x = x + self.tokens(self.norm1(x).mT).mT
            return self.head((x + self.channels(self.norm2(x))).mean(1))

    return healthy(build=Mixer, batch=digits, loss=cross_entropy, optimizer=adam(3e-3), steps=120)


@case("h_metric_by_prototypes")
def _() -> Case:
    """Distances to the means of the first half of the batch classify the second half."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = digits(step, 160)
        return x, y

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        z, y = model(data[0]), data[1]
        member = F.one_hot(y[:80], 10).float()
        prototypes = member.T @ z[:80] / member.sum(0)[:, None].clamp(min=1)
        return F.cross_entropy(-(torch.cdist(z[80:], prototypes) ** 2), y[80:])

    return healthy(
        build=lambda: nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 16, bias=False)),
        batch=batch,
        loss=loss,
        optimizer=adam(1e-3),
        steps=100,
    )

"""Learning by comparison: pairs, triplets, two views, two encoders."""

import copy

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, randn
from corpus.tasks import digit_images, digits, healthy, perceptron
from torch import Tensor, nn


def views(step: int, count: int = 96) -> tuple[Tensor, Tensor]:
    """Two noisy copies of the same digits."""
    x, _ = digits(step, count)
    return tuple(x + 0.4 * randn(*x.shape, step=step, salt=170 + i) for i in range(2))


def agreement(a: Tensor, b: Tensor, temperature: Tensor | float) -> Tensor:
    """Which of the b belongs to which a, and the other way round (InfoNCE)."""
    logits, own = a @ b.T / temperature, torch.arange(len(a))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@case("h_siamese_contrastive_margin")
def _() -> Case:
    """Pairs beyond the margin give nothing; at the end these are most."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        y, z = data[1], model(data[0])
        a, b, same = z[::2], z[1::2], (y[::2] == y[1::2]).float()
        apart = F.pairwise_distance(a, b)
        return (5 * same * apart**2 + (1 - same) * F.relu(2 - apart) ** 2).mean()

    return healthy(
        build=lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8, bias=False)),
        batch=lambda s: digits(s, 128),
        loss=loss,
        optimizer=adam(2e-3),
        steps=150,
    )


@case("h_triplets_mostly_satisfied")
def _() -> Case:
    """Most triplets lose nothing soon."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        z, y = F.normalize(model(data[0]), dim=1), data[1]
        far = 1 - z @ z.T
        alike = y[:, None] == y
        gaps = F.relu(far[:, :, None] - far[:, None, :] + 0.3)
        return gaps[(alike & ~torch.eye(len(y)).bool())[:, :, None] & ~alike[:, None, :]].mean()

    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.Flatten(),
            nn.Linear(128, 16),
        ),
        batch=lambda s: digit_images(s, 48), loss=loss, optimizer=adam(2e-3), steps=100,
    )  # fmt: skip


@case("h_info_nce_two_views")
def _() -> Case:
    """A projection head on an encoder, at a temperature of 0.2."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU())
            self.projector = perceptron(96, 48, 24)

        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(self.projector(self.encoder(x)), dim=1)

    return healthy(
        build=Model, batch=views, loss=lambda m, b: agreement(m(b[0]), m(b[1]), 0.2), optimizer=adam(2e-3), steps=100
    )


class TwoTowers(nn.Module):
    """A picture of a digit and its name; the temperature is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = perceptron(64, 64, 24, activation=nn.GELU), nn.Embedding(10, 24)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.logit_scale.exp() * F.normalize(self.visual(x), dim=1) @ F.normalize(self.text.weight, dim=1).T


@case("h_picture_and_name_learned_temperature")
def _() -> Case:
    """Logits of cosines times fourteen, as CLIP begins."""
    return healthy(
        build=TwoTowers,
        batch=digits,
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        optimizer=adamw(2e-3, weight_decay=0.01),
        steps=120,
    )


class SimSiam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.BatchNorm1d(32, affine=False)
        )
        self.predictor = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Minus the cosine, from −1 to 1, plus one."""
        z, w = self.encoder(a), self.encoder(b)
        p, q = self.predictor(z), self.predictor(w)
        return 1 - (F.cosine_similarity(p, w.detach()) + F.cosine_similarity(q, z.detach())).mean() / 2


@case("h_simsiam_stops_the_gradient")
def _() -> Case:
    """The other branch is a constant, on purpose; the normalisation keeps the code from collapsing."""
    return healthy(build=SimSiam, batch=views, loss=lambda m, b: m(*b), optimizer=adam(1e-3), steps=150)


class Byol(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 24))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(24, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 24))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.target(torch.cat([b, a]))
        return 1 - F.cosine_similarity(self.predictor(self.online(torch.cat([a, b]))), wanted).mean()

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 0.02)


@case("h_byol_with_slow_target")
def _() -> Case:
    """The target is a slow average of the online net and learns nothing by itself."""
    return healthy(
        build=Byol,
        batch=views,
        loss=lambda m, b: m(*b),
        optimizer=adam(1e-3),
        steps=150,
        after_step=lambda m, s: m.follow(),
    )


@case("h_variance_and_covariance_regularised")
def _() -> Case:
    """VICReg: alike for two views, spread over the batch, uncorrelated."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        a, b = model(data[0]), model(data[1])
        spread = sum(F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in (a, b))
        apart = sum((torch.cov(z.T).fill_diagonal_(0.0) ** 2).sum() / z.shape[1] for z in (a, b))
        return F.mse_loss(a, b) + spread + 0.05 * apart

    return healthy(
        build=lambda: perceptron(64, 96, 24, activation=nn.SiLU),
        batch=views,
        loss=loss,
        optimizer=adam(2e-3),
        steps=120,
    )

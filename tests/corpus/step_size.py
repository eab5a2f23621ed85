"""Optimizer steps too large for the weights."""

import torch
from corpus.case import Case, adam, also, case, root, sgd
from corpus.measure import BLOWN, update_ratio
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, recall, regress, surface, tokens
from torch import Tensor, nn

TOO_FAR = (
    *BLOWN,
    also("constant-output"),
    also("vanishing-gradient"),
    also("no-gradient"),
    also("rank-collapse"),
    also("attention-collapse"),
    also("vanishing-through-time"),
    also("exploding-through-time"),
    also("zero-loss-gradient"),
)


@case("s_step_adam_half_on_convnet")
def _() -> Case:
    """Adam with 0.5: every weight of a small convolutional net is moved by ten times its size."""
    c = Case(
        family="step-size",
        build=lambda: ConvNet(3, 12),
        batch=digits,
        loss=classify,
        optimizer=adam(0.5),
        steps=60,
        expect=(root("update-too-large"), *TOO_FAR),
        fix=lambda: c.but(optimizer=adam(3e-3), steps=80),
        verify=update_ratio(r"convs\..*weight", above=1.0),
    )
    return c


@case("s_step_sgd_momentum_20_on_tanh")
def _() -> Case:
    """SGD with rate 20 and momentum 0.9 drives tanh units to their bounds."""
    c = Case(
        family="step-size",
        build=lambda: Mlp([8, 64, 64, 4], nn.Tanh),
        batch=blobs,
        loss=classify,
        optimizer=sgd(20.0, momentum=0.9),
        steps=60,
        expect=(root("update-too-large"), root("exploding-gradient"), *TOO_FAR),
        fix=lambda: c.but(optimizer=sgd(0.05, momentum=0.9), steps=60),
        verify=update_ratio(r"layers\..*weight|head\.weight", above=1.0, steps=3),
    )
    return c


class Tabular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU())
        self.head = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def _groups(rate: float, head_rate: float):
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [{"params": model.encoder.parameters(), "lr": rate}, {"params": model.head.parameters(), "lr": head_rate}]
        )

    return make


@case("s_step_one_group_thousandfold")
def _() -> Case:
    """The head's group has a thousand times the rate of the encoder's."""
    c = Case(
        family="step-size",
        build=Tabular,
        batch=surface,
        loss=regress,
        optimizer=_groups(2e-3, 2.0),
        steps=80,
        expect=(root("update-too-large", r"head"), *TOO_FAR),
        fix=lambda: c.but(optimizer=_groups(3e-3, 3e-3), steps=100),
        verify=update_ratio(r"head\.weight", above=1.0),
    )
    return c


class PostNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos = nn.Embedding(16, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids) + self.pos).mean(1))


@case("s_step_post_norm_transformer_without_warm_up")
def _() -> Case:
    """Adam with 0.1 from the first step on a post-norm transformer."""
    c = Case(
        family="step-size",
        build=PostNorm,
        batch=tokens,
        loss=classify,
        optimizer=adam(0.1),
        steps=40,
        expect=(root("update-too-large"), *TOO_FAR),
        fix=lambda: c.but(optimizer=adam(1e-3), steps=60),
        verify=update_ratio(r"encoder\.layers\.\d\.linear1\.weight", above=0.5),
    )
    return c


@case("s_step_rmsprop_one")
def _() -> Case:
    """RMSprop with rate 1 on a GRU: its first step is ten times the rate for every weight."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(4, 24, batch_first=True), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    c = Case(
        family="step-size",
        build=Reader,
        batch=lambda step: recall(step, length=6),
        loss=classify,
        optimizer=lambda m: torch.optim.RMSprop(m.parameters(), lr=1.0),
        steps=50,
        expect=(root("update-too-large"), *TOO_FAR),
        fix=lambda: c.but(optimizer=lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3), steps=120),
        verify=update_ratio(r"gru\.weight", above=1.0),
    )
    return c


@case("s_step_adagrad_ten")
def _() -> Case:
    """Adagrad with rate 10: the first steps of an autoencoder-sized net are as large as the rate."""
    c = Case(
        family="step-size",
        build=lambda: Mlp([64, 32, 32, 10], nn.GELU),
        batch=flat_digits,
        loss=classify,
        optimizer=lambda m: torch.optim.Adagrad(m.parameters(), lr=10.0),
        steps=50,
        expect=(root("update-too-large"), *TOO_FAR),
        fix=lambda: c.but(optimizer=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.01), steps=120),
        verify=update_ratio(r"layers\..*weight", above=1.0),
    )
    return c


def _jumping(rate: float, factor: float, at: int):
    """SGD with momentum whose rate is multiplied at a step; the schedule lies in the model's wake."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        model.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor if step >= at else 1.0)
        return optimizer

    return make


def _advance(model: nn.Module, step: int) -> None:
    model.schedule.step()


@case("s_step_rate_jumps_at_step_40")
def _() -> Case:
    """Forty good steps; then the schedule's next piece begins with a rate a thousand times larger."""
    c = Case(
        family="step-size",
        build=lambda: Mlp([8, 48, 48, 4]),
        batch=blobs,
        loss=classify,
        optimizer=_jumping(0.02, 1000.0, 40),
        after_step=_advance,
        steps=80,
        expect=(root("update-too-large"), root("exploding-gradient"), *TOO_FAR),
        fix=lambda: c.but(optimizer=_jumping(0.02, 0.5, 40)),
        verify=update_ratio(r"weight", above=0.5, at=40, steps=3),
    )
    return c

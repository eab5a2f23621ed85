"""Optimizer steps too small to matter, or none at all; clipping that sets every step."""

import torch
from corpus.case import Case, adam, also, case, gradient_norm, gradients, root, sgd
from corpus.measure import update_ratio
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, recall, regress, surface, tokens
from torch import Tensor, nn

STANDS = (also("loss-stall"), also("update-too-small"), also("vanishing-gradient"))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lin, self.act = nn.Embedding(16, 24), nn.Linear(24, 32), nn.ReLU()
        self.out = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.act(self.lin(self.embed(ids).mean(1))))


def _only(*parts: str, lr: float):
    """Adam of those submodules; of all, if none is named."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        given = [p for part in parts for p in model.get_submodule(part).parameters()]
        return torch.optim.Adam(given or model.parameters(), lr=lr)

    return make


@case("s_still_embedding_missing_from_optimizer")
def _() -> Case:
    """The optimizer was given the layers, and not the embedding."""
    c = Case(
        family="step-size",
        build=Tagger,
        batch=tokens,
        loss=classify,
        optimizer=_only("lin", "out", lr=5e-3),
        steps=60,
        expect=(root("update-too-small", "embed"), *STANDS),
        fix=lambda: c.but(optimizer=_only(lr=1e-2), steps=80),
        verify=update_ratio(r"embed\.", below=1e-9, steps=20),
    )
    return c


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        self.new_head = nn.Sequential(nn.Linear(256, 32), nn.SiLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.new_head(self.stage(self.stem(x)))


@case("s_still_head_replaced_after_optimizer")
def _() -> Case:
    """The head was exchanged after the optimizer was made: the new one is never stepped."""
    c = Case(
        family="step-size",
        build=Backbone,
        batch=digits,
        loss=classify,
        optimizer=_only("stem", "stage", lr=1e-3),
        steps=50,
        expect=(root("update-too-small", r"new_head(\.\d)?"), *STANDS),
        fix=lambda: c.but(optimizer=_only(lr=3e-3), steps=60),
        verify=update_ratio(r"new_head\.", below=1e-9, steps=20),
    )
    return c


@case("s_still_rate_1e_minus_9")
def _() -> Case:
    """AdamW with 1e-9."""
    c = Case(
        family="step-size",
        build=lambda: Mlp([64, 48, 48, 10], nn.GELU),
        batch=flat_digits,
        loss=classify,
        optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=1e-9),
        steps=60,
        expect=(root("update-too-small"), *STANDS),
        fix=lambda: c.but(optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3)),
        verify=update_ratio(r"weight", below=1e-5, steps=20),
    )
    return c


class Speaker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(4, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x)[1][-1])


def _two_rates(encoder: float, decoder: float):
    def make(model: nn.Module) -> torch.optim.Optimizer:
        first, last = model.encoder.parameters(), model.decoder.parameters()
        return torch.optim.Adam([{"params": first, "lr": encoder}, {"params": last, "lr": decoder}])

    return make


@case("s_still_encoder_group_wrong_rate")
def _() -> Case:
    """The group of the encoder has the rate 1e-8, a layer-wise decay applied once too often."""
    c = Case(
        family="step-size",
        build=Speaker,
        batch=lambda step: recall(step, length=6),
        loss=classify,
        optimizer=_two_rates(1e-8, 1e-2),
        steps=60,
        expect=(root("update-too-small", "encoder"), *STANDS),
        fix=lambda: c.but(optimizer=_two_rates(1e-2, 1e-2)),
        verify=update_ratio(r"encoder\.", below=1e-5, steps=20),
    )
    return c


@case("s_still_loss_divided_by_a_million_under_sgd")
def _() -> Case:
    """The loss is divided by the size of the data set before SGD sees it."""
    c = Case(
        family="step-size",
        build=lambda: Mlp([6, 48, 48, 1], nn.Tanh),
        batch=surface,
        loss=lambda m, b: regress(m, b) / 1e6,
        optimizer=sgd(0.1),
        steps=60,
        expect=(root("update-too-small"), root("vanishing-gradient"), root("zero-loss-gradient"), *STANDS),
        fix=lambda: c.but(loss=regress, steps=120),
        verify=update_ratio(r"weight", below=1e-5, steps=20),
    )
    return c


def _decayed(factor: float):
    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        model.schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, factor)
        return optimizer

    return make


@case("s_still_schedule_steps_per_batch")
def _() -> Case:
    """A decay of 0.3 meant per epoch is applied per batch: after twenty steps nothing moves any more."""
    c = Case(
        family="step-size",
        build=lambda: ConvNet(3, 12),
        batch=digits,
        loss=classify,
        optimizer=_decayed(0.3),
        after_step=lambda m, step: m.schedule.step(),
        steps=60,
        expect=(root("update-too-small"), *STANDS),
        fix=lambda: c.but(optimizer=_decayed(0.99)),
        verify=update_ratio(r"weight", below=1e-6, at=25, steps=10),
    )
    return c


def _above_limit(times: float):
    """Whether the norm before clipping is that many times the limit in each of ten batches, at the start."""

    def verify(k: Case) -> dict[str, object]:
        least = min(gradient_norm(gradients(k, step)[1]) for step in range(10))
        return {"least_norm": least, "limit": k.clip, "sick": least > times * (k.clip or float("inf"))}

    return verify


@case("s_clip_1e_minus_4_on_mlp")
def _() -> Case:
    """SGD clipped to a norm of 1e-4: each step has that length times the rate, whatever the gradient says."""
    c = Case(
        family="clipping",
        build=lambda: Mlp([8, 48, 48, 4]),
        batch=blobs,
        loss=classify,
        optimizer=sgd(0.1),
        clip=1e-4,
        steps=60,
        expect=(root("clipping-dominates"), *STANDS),
        fix=lambda: c.but(clip=5.0, steps=100),
        verify=_above_limit(100.0),
    )
    return c


@case("s_clip_mean_limit_under_summed_loss")
def _() -> Case:
    """The loss is summed over batch and time, its gradient clipped to 0.01 as if it were a mean."""

    def summed(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(data[0]), data[1], reduction="sum")

    c = Case(
        family="clipping",
        build=Speaker,
        batch=lambda step: recall(step, 128, length=6),
        loss=summed,
        optimizer=sgd(0.05, momentum=0.9),
        clip=0.01,
        steps=50,
        expect=(root("clipping-dominates"), *STANDS),
        fix=lambda: c.but(loss=classify, clip=1.0, optimizer=adam(1e-2), steps=80),
        verify=_above_limit(100.0),
    )
    return c


@case("s_clip_1e_minus_3_on_convnet")
def _() -> Case:
    """A limit of 1e-3 copied from another project, under momentum SGD, on a small convolutional net."""
    c = Case(
        family="clipping",
        build=lambda: ConvNet(3, 12),
        batch=digits,
        loss=classify,
        optimizer=sgd(0.02, momentum=0.9),
        clip=1e-3,
        steps=60,
        expect=(root("clipping-dominates"), *STANDS),
        fix=lambda: c.but(clip=5.0, optimizer=sgd(0.1, momentum=0.9), steps=100),
        verify=_above_limit(30.0),
    )
    return c

"""Faults in one part of a larger model, faults that begin late, and chains of them."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, gradient_rms, gradients, root, sgd, train
from corpus.measure import (
    BLOWN,
    STALLS,
    becomes_nan,
    gradient_ratio,
    no_gradient,
)
from corpus.parts import Mlp, blobs, classify, flat_digits, surface
from torch import Tensor, nn


class Sharpened(nn.Module):
    """Soft counts by exponentials, without the largest taken off."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sharpness", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        e = (self.sharpness * x).exp()
        return e / e.sum(1, keepdim=True)


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.assign = Mlp([8, 32, 12], nn.Tanh), Sharpened()
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.assign(self.encoder(x)))


def _annealed(rate: float, most: float):
    def anneal(model: nn.Module, step: int) -> None:
        model.assign.sharpness.mul_(rate).clamp_(max=most)

    return anneal


@case("s_late_sharpness_annealed_until_exp_overflows")
def _() -> Case:
    """The sharpness of soft assignments grows by 18 % a step without bound; around step 25 its exp is infinite."""

    def verify(k: Case) -> dict[str, object]:
        found = becomes_nan(k)
        return found | {"sick": found["sick"] and found["first_bad_step"] >= 15}

    c = Case(
        family="composite",
        build=Prototypes,
        batch=blobs,
        loss=classify,
        optimizer=adam(3e-3),
        after_step=_annealed(1.18, float("inf")),
        steps=60,
        expect=(root("non-finite", "assign"), *BLOWN, also("constant-output")),
        fix=lambda: c.but(after_step=_annealed(1.02, 3.0), optimizer=adam(1e-2), steps=100),
        verify=verify,
    )
    return c


class Modality(nn.Module):
    def __init__(self, inputs: int, depth: int, act: type[nn.Module]) -> None:
        super().__init__()
        sizes = [inputs] + [24] * depth
        self.encoder = nn.Sequential(*(nn.Sequential(nn.Linear(a, 24), act()) for a in sizes[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class Fused(nn.Module):
    def __init__(self, depth: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.modalities = nn.ModuleDict({"left": Modality(32, 2, nn.SiLU), "right": Modality(32, depth, act)})
        self.fusion = nn.Sequential(nn.Linear(48, 32), nn.SiLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[:, :32], x[:, 32:]
        return self.fusion(torch.cat([self.modalities["left"](left), self.modalities["right"](right)], 1))


@case("s_branch_of_sigmoids_in_fused_model")
def _() -> Case:
    """Of two modalities, the right one goes through ten sigmoid layers; the left one carries the task."""
    inside = r"modalities\.right(\.encoder(\.\d(\.\d)?)?)?"
    c = Case(
        family="composite",
        build=lambda: Fused(10, nn.Sigmoid),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(3e-3),
        steps=80,
        expect=(
            root("vanishing-gradient", inside),
            *STALLS,
            also("constant-output"),
            also("forward-variance-collapse"),
        ),
        fix=lambda: c.but(build=lambda: Fused(2, nn.SiLU)),
        verify=gradient_ratio(r"right\.encoder\.0\.0\.weight", r"left\.encoder\.0\.0\.weight", below=1e-4),
    )
    return c


class ManyHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.heads = nn.ModuleDict({task: nn.Linear(32, 1) for task in ("price", "volume", "risk")})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {task: head(h) for task, head in self.heads.items()}


def _weighted(risk: float):
    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        out, x, y = model(data[0]), *data
        price, volume = F.mse_loss(out["price"], y), F.mse_loss(out["volume"], x[:, 4:5].abs())
        return price + volume + risk * F.mse_loss(out["risk"], torch.sin(x[:, 5:]))

    return loss


@case("s_one_head_of_three_weighted_by_zero")
def _() -> Case:
    """The weight of one of three tasks was left at zero; its head is trainable and learns nothing."""
    c = Case(
        family="composite",
        build=ManyHeads,
        batch=surface,
        loss=_weighted(0.0),
        optimizer=adam(3e-3),
        steps=80,
        expect=(root("no-gradient", r"heads\.risk"), root("zero-loss-gradient", r"|heads\.risk"), *STALLS),
        fix=lambda: c.but(loss=_weighted(1.0), steps=120),
        verify=no_gradient(r"heads\.risk"),
    )
    return c


class Switched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 24))
        self.decoder, self.warm = nn.Sequential(nn.GELU(), nn.Linear(24, 10)), True

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return self.decoder(h if self.warm else h.detach())


@case("s_late_encoder_detached_after_step_30")
def _() -> Case:
    """A 'warm-up' ends after step 30 by detaching the encoder, which should go on learning."""

    def end_warm_up(model: nn.Module, step: int) -> None:
        model.warm = step < 30

    def verify(k: Case) -> dict[str, object]:
        model, _ = train(k, steps=40)
        size = gradient_rms(gradients(k, 40, model=model)[1], r"^encoder\.")
        return {"encoder": size, "sick": size == 0.0}

    c = Case(
        family="composite",
        build=Switched,
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(0.05, momentum=0.9),
        after_step=end_warm_up,
        steps=80,
        expect=(root("no-gradient", r"encoder(\.\d)?"), *STALLS),
        fix=lambda: c.but(after_step=None),
        verify=verify,
    )
    return c

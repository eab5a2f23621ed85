"""Paths cut between a trainable parameter and the loss."""

import torch
from corpus.case import Case, adam, also, case, root, sgd
from corpus.measure import no_gradient
from corpus.parts import Mlp, blobs, classify, digits, flat_digits, regress, surface, tokens
from torch import Tensor, nn

CUT = (also("vanishing-gradient"), also("update-too-small"), also("loss-stall"), also("rank-collapse"))


class TwoTowers(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))
        self.item = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        item = self.item(x[:, 4:])
        return (self.user(x[:, :4]) * (item.detach() if self.cut else item)).sum(1, keepdim=True)


@case("s_cut_item_tower_detached")
def _() -> Case:
    """Of two towers, one is detached before the product; the other adapts to its random features."""
    c = Case(
        family="no-gradient",
        build=lambda: TwoTowers(True),
        batch=lambda step: surface(step, dim=8),
        loss=regress,
        optimizer=adam(3e-3),
        steps=60,
        expect=(root("no-gradient", r"item(\.\d)?"), *CUT),
        fix=lambda: c.but(build=lambda: TwoTowers(False), steps=150),
        verify=no_gradient(r"^item\."),
    )
    return c


class Backboned(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2), nn.ReLU(), nn.Conv2d(12, 12, 2), nn.ReLU())
        self.classifier, self.cut = nn.Linear(48, 10), cut

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.cut):
            features = self.backbone(x)
        return self.classifier(features.flatten(1))


@case("s_cut_backbone_under_no_grad")
def _() -> Case:
    """The no_grad of the feature extraction was left in when fine-tuning began; the backbone is trainable."""
    c = Case(
        family="no-gradient",
        build=lambda: Backboned(True),
        batch=digits,
        loss=classify,
        optimizer=sgd(0.1, momentum=0.9),
        steps=60,
        expect=(root("no-gradient", r"backbone(\.\d)?"), *CUT),
        fix=lambda: c.but(build=lambda: Backboned(False), optimizer=adam(5e-3), steps=100),
        verify=no_gradient(r"^backbone\."),
    )
    return c


class Embedded(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.lift, self.act = nn.Embedding(16, 16), nn.Linear(16, 24), nn.GELU()
        self.head, self.how = nn.Linear(24, 2), how

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids).mean(1)
        if self.how == "data":
            h = h.data
        elif self.how == "rewrapped":
            h = torch.tensor(h.tolist())
        return self.head(self.act(self.lift(h)))


@case("s_cut_embedding_by_dot_data")
def _() -> Case:
    """.data, taken to spare memory, cuts the embedding off."""
    c = Case(
        family="no-gradient",
        build=lambda: Embedded("data"),
        batch=tokens,
        loss=classify,
        optimizer=adam(3e-3),
        steps=60,
        expect=(root("no-gradient", r"embed"), *CUT),
        fix=lambda: c.but(build=lambda: Embedded("whole"), optimizer=adam(1e-2), steps=100),
        verify=no_gradient(r"^embed\."),
    )
    return c


@case("s_cut_tensor_wrapped_anew")
def _() -> Case:
    """torch.tensor(h.tolist()) makes new numbers without history."""
    c = Case(
        family="no-gradient",
        build=lambda: Embedded("rewrapped"),
        batch=lambda step: tokens(step, 16),
        loss=classify,
        optimizer=sgd(0.1),
        steps=50,
        expect=(root("no-gradient", r"embed"), *CUT),
        fix=lambda: c.but(build=lambda: Embedded("whole"), optimizer=adam(1e-2), steps=100),
        verify=no_gradient(r"^embed\."),
        seed=9,
    )
    return c


class Routed(nn.Module):
    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.router = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.experts, self.hard = nn.ModuleList(Mlp([8, 24, 4]) for _ in range(3)), hard

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        weight = torch.eye(3)[logits.argmax(1)] if self.hard else logits.softmax(1)
        return torch.einsum("be,ebc->bc", weight, torch.stack([expert(x) for expert in self.experts]))


@case("s_cut_router_by_argmax")
def _() -> Case:
    """The router of a mixture of experts chooses by argmax, through which nothing comes back."""
    c = Case(
        family="no-gradient",
        build=lambda: Routed(True),
        batch=blobs,
        loss=classify,
        optimizer=adam(5e-3),
        steps=60,
        expect=(root("no-gradient", r"router(\.\d)?"), *CUT),
        fix=lambda: c.but(build=lambda: Routed(False)),
        verify=no_gradient(r"^router\."),
    )
    return c


class Supervised(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.stem, self.act, self.used = nn.Linear(64, 32), nn.ReLU(), used
        self.refine, self.main = nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.stem(x))
        refined = self.act(self.refine(h))
        return self.main(refined if self.used else h)


@case("s_cut_refinement_computed_and_forgotten")
def _() -> Case:
    """The refined features are computed, and the head is given the unrefined ones."""
    c = Case(
        family="no-gradient",
        build=lambda: Supervised(False),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("no-gradient", r"refine"), *CUT),
        fix=lambda: c.but(build=lambda: Supervised(True), steps=80),
        verify=no_gradient(r"^refine\."),
    )
    return c


class Quantised(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.Tanh())
        self.decoder, self.how = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 10)), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        code = (4 * h).round() / 4 if self.how == "round" else h.sign()
        return self.decoder(h + (code - h).detach() if self.how == "through" else code)


@case("s_cut_rounded_code")
def _() -> Case:
    """A code is rounded, without a straight-through estimate: the slope of rounding is zero."""
    c = Case(
        family="no-gradient",
        build=lambda: Quantised("round"),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("no-gradient", r"encoder(\.\d)?"), *CUT),
        fix=lambda: c.but(build=lambda: Quantised("through"), steps=100),
        verify=no_gradient(r"^encoder\."),
    )
    return c


@case("s_cut_sign_activation")
def _() -> Case:
    """Binary codes by sign(): the encoder keeps its random weights for ever."""
    c = Case(
        family="no-gradient",
        build=lambda: Quantised("sign"),
        batch=lambda step: flat_digits(step, 96),
        loss=classify,
        optimizer=sgd(0.05, momentum=0.9),
        steps=60,
        expect=(root("no-gradient", r"encoder(\.\d)?"), *CUT),
        fix=lambda: c.but(build=lambda: Quantised("through"), optimizer=adam(3e-3), steps=80),
        verify=no_gradient(r"^encoder\."),
        seed=1,
    )
    return c

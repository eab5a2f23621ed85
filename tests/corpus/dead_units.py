"""Rectifiers that are zero for every sample."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, root, sgd, train
from corpus.measure import BLOCKED, outputs, share_of
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, he, regress, surface, tokens
from torch import Tensor, nn

QUIET = (*BLOCKED, also("rank-collapse"))


def _off(units: Tensor) -> Tensor:
    return units == 0


@case("s_dead_mlp_bias_minus_10")
def _() -> Case:
    """The second of three rectifier layers has a bias of −10 everywhere."""

    def build() -> nn.Module:
        model = Mlp([8, 48, 48, 48, 4])
        nn.init.constant_(model.layers[1].bias, -10.0)
        return model

    c = Case(
        family="units",
        build=build,
        batch=blobs,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("dead-units", r"(layers|acts)\.1"), *QUIET, also("dead-units")),
        fix=lambda: c.but(build=lambda: Mlp([8, 48, 48, 48, 4])),
        verify=share_of("acts.1", _off, above=0.99),
    )
    return c


@case("s_dead_nine_tenths_of_the_channels")
def _() -> Case:
    """Eighteen of twenty channels of the middle convolution never fire; two do, and the loss still falls."""

    def build() -> nn.Module:
        model = ConvNet(3, 20, init=he)
        nn.init.constant_(model.convs[1].bias[:18], -12.0)
        return model

    c = Case(
        family="units",
        build=build,
        batch=digits,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("dead-units", r"(convs|acts)\.1"), *QUIET),
        fix=lambda: c.but(build=lambda: ConvNet(3, 20, init=he)),
        verify=share_of("acts.1", _off, above=0.85),
    )
    return c


class Positive(nn.Module):
    """Features behind a sigmoid, all positive, meet a layer whose weights are all negative."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 32), nn.Sigmoid() if sign else nn.Tanh())
        self.hidden, self.relu, self.value = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
        if sign:
            with torch.no_grad():
                self.hidden.weight.copy_(sign * self.hidden.weight.abs())
                self.hidden.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.relu(self.hidden(self.features(x))))


@case("s_dead_negative_weights_on_positive_features")
def _() -> Case:
    """Non-negative features through weights forced negative: no unit can ever be above zero."""
    c = Case(
        family="units",
        build=lambda: Positive(-1.0),
        batch=surface,
        loss=regress,
        optimizer=sgd(0.05),
        steps=60,
        expect=(root("dead-units", r"hidden|relu"), *QUIET),
        fix=lambda: c.but(build=lambda: Positive(0.0), optimizer=adam(1e-2), steps=200),
        verify=share_of("relu", _off, above=0.99),
    )
    return c


class TwoBranches(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.context = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.fuse = nn.Linear(256, 10)
        nn.init.constant_(self.context[0].bias, offset)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.local(x), self.context(x)], 1))


@case("s_dead_branch_of_two")
def _() -> Case:
    """Of two branches that are concatenated, one is silent; the other learns the task alone."""
    c = Case(
        family="units",
        build=lambda: TwoBranches(-8.0),
        batch=digits,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("dead-units", r"context(\.\d)?"), *QUIET),
        fix=lambda: c.but(build=lambda: TwoBranches(0.0)),
        verify=share_of("context.1", _off, above=0.99),
    )
    return c


@case("s_dead_bias_knocked_down_at_step_40")
def _() -> Case:
    """A constraint applied after step 40 pushes the second layer's biases to −25; from there on it is silent."""

    def knock(model: nn.Module, step: int) -> None:
        if step == 40:
            nn.init.constant_(model.layers[1].bias, -25.0)

    c = Case(
        family="units",
        build=lambda: Mlp([64, 64, 64, 10]),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(0.05, momentum=0.9),
        steps=100,
        expect=(root("dead-units", r"(layers|acts)\.1"), *QUIET, also("loss-divergence")),
        after_step=knock,
        fix=lambda: c.but(after_step=None),
        verify=share_of("acts.1", _off, above=0.99, after=60),
    )
    return c


class WordNet(nn.Module):
    def __init__(self, silent: bool) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(16, 24), nn.Parameter(0.1 * torch.randn(12, 24))
        layer = nn.TransformerEncoderLayer(24, 3, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(24, 2)
        if silent:
            nn.init.constant_(self.encoder.layers[1].linear1.bias, -9.0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids) + self.position).mean(1))


@case("s_dead_feed_forward_of_one_encoder_layer")
def _() -> Case:
    """In the middle one of three encoder layers the feed-forward's rectifiers are off; the residual hides it."""
    inside = r"encoder\.layers\.1(\.(linear1|linear2|dropout|activation))?"
    c = Case(
        family="units",
        build=lambda: WordNet(True),
        batch=tokens,
        loss=classify,
        optimizer=adam(2e-3),
        steps=50,
        expect=(root("dead-units", inside), root("constant-output", inside), root("no-gradient", inside), *QUIET),
        fix=lambda: c.but(build=lambda: WordNet(False), steps=80),
        verify=lambda k: _linear1_off(k),
    )
    return c


def _linear1_off(k: Case) -> dict[str, object]:
    (out,) = outputs(k, "encoder.layers.1.linear1")
    share = float((out <= 0).flatten(0, 1).all(0).double().mean())
    return {"share": share, "sick": share > 0.99}


class Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.q_head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.q_head(self.trunk(x))


@case("s_dead_after_first_steps_too_large")
def _() -> Case:
    """SGD's rate of 3 throws the biases of a value network down within a few steps; nothing brings them back."""

    def verify(k: Case) -> dict[str, object]:
        (out,) = outputs(k, "trunk.3", model=train(k, steps=20)[0], step=20)
        share = float((out == 0).all(0).double().mean())
        return {"share": share, "sick": share > 0.8}

    c = Case(
        family="units",
        build=Critic,
        batch=lambda step: surface(step, 128),
        loss=lambda m, b: F.smooth_l1_loss(m(b[0]), 5.0 * b[1] + 5.0),
        optimizer=sgd(3.0),
        steps=40,
        expect=(
            root("update-too-large", r"trunk(\.\d)?|q_head|"),
            root("dead-units", r"trunk(\.\d)?"),
            *QUIET,
            also("exploding-gradient"),
            also("forward-variance-explosion"),
            also("loss-divergence"),
            also("non-finite"),
        ),
        fix=lambda: c.but(optimizer=adam(2e-3), steps=200),
        verify=verify,
    )
    return c

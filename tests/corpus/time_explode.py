"""Recurrences whose gradient grows from step to step back in time."""

import torch
from corpus.case import Case, adam, also, case, randn, root, sgd
from corpus.measure import BLOWN, through_time
from corpus.parts import classify, recall, regress
from torch import Tensor, nn


class Counter(nn.Module):
    def __init__(self, gain: float, act: str, width: int = 32) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, width, nonlinearity=act, batch_first=True)
        self.fc = nn.Linear(width, 4)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


@case("s_time_explode_relu_rnn")
def _() -> Case:
    """A rectifier recurrence, orthogonal times 2.4, over forty steps."""
    c = Case(
        family="time",
        build=lambda: Counter(2.4, "relu"),
        batch=lambda step: recall(step, length=40),
        loss=classify,
        optimizer=sgd(0.01),
        steps=40,
        expect=(root("exploding-through-time", "rnn"), *BLOWN),
        fix=lambda: c.but(build=lambda: Counter(1.0, "tanh"), optimizer=adam(3e-3), steps=100),
        verify=through_time(above=1e3),
    )
    return c


@case("s_time_explode_chaotic_tanh_rnn")
def _() -> Case:
    """Recurrent weights of gain 3 keep tanh in bounds and make it chaotic: backwards it grows exponentially."""

    def build(gain: float) -> nn.Module:
        model = Counter(1.0, "tanh", 96)
        if gain != 1.0:
            nn.init.normal_(model.rnn.weight_hh_l0, std=gain * 96**-0.5)
        return model

    c = Case(
        family="time",
        build=lambda: build(3.0),
        batch=lambda step: recall(step, length=50),
        loss=classify,
        optimizer=adam(1e-3),
        steps=40,
        expect=(root("exploding-through-time", "rnn"), *BLOWN),
        fix=lambda: c.but(build=lambda: build(1.0), batch=lambda step: recall(step, length=25), steps=80),
        verify=through_time(above=1e3),
    )
    return c


class Identity(nn.Module):
    """A loop over a linear state with a rectifier, whose matrix begins as a multiple of the identity."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.drive, self.state, self.act = nn.Linear(4, 24), nn.Linear(24, 24), nn.ReLU()
        self.out = nn.Linear(24, 1)
        self.state.weight.data.copy_(factor * torch.eye(24))

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 24)
        for now in x.unbind(1):
            h = self.act(self.drive(now) + self.state(h))
        return self.out(h)


def _sums(length: int, step: int) -> tuple[Tensor, Tensor]:
    x = 0.3 * randn(32, length, 4, step=step, salt=31)
    return x, x[:, : length // 2, :1].sum(1)


@case("s_time_explode_identity_times_1_25")
def _() -> Case:
    """The identity trick with 1.25 in place of one; fifty steps make it 7e4."""
    c = Case(
        family="time",
        build=lambda: Identity(1.25),
        batch=lambda step: _sums(50, step),
        loss=regress,
        optimizer=sgd(1e-4),
        steps=40,
        expect=(root("exploding-through-time", "|state|drive|act"), *BLOWN),
        fix=lambda: c.but(build=lambda: Identity(0.97), optimizer=adam(3e-3), steps=120),
        verify=through_time(above=1e3),
    )
    return c


class StateSpace(nn.Module):
    """A diagonal linear state: h ← a·h + Bx."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.a = nn.Parameter(decay + 0.01 * torch.randn(32))
        self.b, self.c = nn.Linear(16, 32, bias=False), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for now in x.unbind(1):
            h = self.a * h + self.b(now)
        return self.c(h)


class Filter(nn.Module):
    def __init__(self, decay: float) -> None:
        super().__init__()
        self.embed, self.ssm = nn.Linear(4, 16), StateSpace(decay)

    def forward(self, x: Tensor) -> Tensor:
        return self.ssm(self.embed(x))


@case("s_time_explode_unstable_state_space")
def _() -> Case:
    """The state's diagonal lies around 1.15 where below one was meant; sixty steps."""
    c = Case(
        family="time",
        build=lambda: Filter(1.15),
        batch=lambda step: _sums(60, step),
        loss=regress,
        optimizer=sgd(1e-5),
        steps=40,
        expect=(root("exploding-through-time", r"|ssm(\.\w)?|embed"), *BLOWN),
        fix=lambda: c.but(build=lambda: Filter(0.95), optimizer=adam(3e-3), steps=120),
        verify=through_time(above=300.0),
    )
    return c


class Gru(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 64, batch_first=True), nn.Linear(64, 4)
        with torch.no_grad():
            self.gru.bias_ih_l0[64:128] = -3.0 if std else 3.0
            self.gru.bias_ih_l0[:64] = 3.0
            if std:
                self.gru.weight_hh_l0[128:].normal_(std=std * 64**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


@case("s_time_explode_gru_candidate_weights")
def _() -> Case:
    """A GRU whose candidate's recurrent weights were drawn six times too large, with the gates letting it through."""
    c = Case(
        family="time",
        build=lambda: Gru(5.0),
        batch=lambda step: recall(step, length=50),
        loss=classify,
        optimizer=adam(1e-3),
        steps=40,
        expect=(root("exploding-through-time", "gru"), *BLOWN),
        fix=lambda: c.but(
            build=lambda: Gru(0.0), batch=lambda step: recall(step, length=16), optimizer=adam(5e-3), steps=80
        ),
        verify=through_time(above=1e3),
    )
    return c


class Cells(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.cell = nn.RNNCell(4, 48, nonlinearity="relu")
        self.post, self.norm = nn.Linear(48, 4), nn.LayerNorm(48)
        nn.init.orthogonal_(self.cell.weight_hh, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 48)
        total = x.new_zeros(len(x), 48)
        for now in x.unbind(1):
            h = self.cell(now, h)
            total = total + h
        return self.post(self.norm(total / x.shape[1]))


@case("s_time_explode_relu_cells_by_hand")
def _() -> Case:
    """Rectifier cells, orthogonal times 2.6, averaged and normed at the end, which hides the size of the states."""

    c = Case(
        family="time",
        build=lambda: Cells(2.6),
        batch=recall,
        loss=classify,
        optimizer=sgd(0.05),
        steps=40,
        expect=(
            root("exploding-through-time", "|cell"),
            root("forward-variance-explosion", "|cell"),
            *BLOWN,
            also("vanishing-gradient"),
            also("rank-collapse"),
        ),
        fix=lambda: c.but(
            build=lambda: Cells(1.0), batch=lambda step: recall(step, length=8), optimizer=adam(5e-3), steps=100
        ),
        verify=through_time(above=1e3),
    )
    return c

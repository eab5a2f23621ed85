"""Recurrences that forget on the way back in time."""

import torch
from corpus.case import Case, adam, also, case, randn, root, sgd
from corpus.measure import STALLS, through_time
from corpus.parts import classify, recall
from torch import Tensor, nn

FORGETS = (*STALLS, also("forward-variance-collapse"))


class Last(nn.Module):
    """The last state of a recurrence, classified."""

    def __init__(self, rnn: nn.RNNBase, classes: int = 4) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(rnn.hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def _elman(gain: float) -> nn.Module:
    rnn = nn.RNN(4, 40, batch_first=True)
    nn.init.orthogonal_(rnn.weight_hh_l0, gain)
    return Last(rnn)


@case("s_time_vanish_elman_small_recurrence")
def _() -> Case:
    """An Elman network whose recurrent matrix is orthogonal times 0.4: thirty steps leave 1e-12."""
    c = Case(
        family="time",
        build=lambda: _elman(0.4),
        batch=recall,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("vanishing-through-time", "rnn"), root("vanishing-gradient", "rnn"), *FORGETS),
        fix=lambda: c.but(build=lambda: _elman(1.0), steps=100),
        verify=through_time(below=1e-6),
    )
    return c


def _gru(update_bias: float, length_gate: float = 0.0) -> nn.Module:
    gru = nn.GRU(4, 24, batch_first=True)
    with torch.no_grad():
        gru.bias_ih_l0[24:48] = update_bias
        gru.weight_hh_l0[48:] *= 1.0 - length_gate
    return Last(gru)


@case("s_time_vanish_gru_update_gate_open")
def _() -> Case:
    """The update gate's bias is −5: the old state is overwritten at every step."""
    c = Case(
        family="time",
        build=lambda: _gru(-5.0),
        batch=recall,
        loss=classify,
        optimizer=adam(1e-3),
        steps=50,
        expect=(
            root("vanishing-through-time", "rnn"),
            root("vanishing-gradient", "rnn"),
            also("saturation", "rnn"),
            *FORGETS,
        ),
        fix=lambda: c.but(build=lambda: _gru(3.0), optimizer=adam(1e-2), steps=100),
        verify=through_time(below=1e-6),
    )
    return c


def _lstm(forget: float, layers: int = 1) -> nn.Module:
    lstm = nn.LSTM(4, 24, layers, batch_first=True)
    for name, bias in lstm.named_parameters():
        if name.startswith("bias_ih"):
            bias.data[24:48] = forget
    return Last(lstm)


@case("s_time_vanish_lstm_forget_bias_minus_5")
def _() -> Case:
    """A forget gate of 0.007 empties the cell at every step."""
    c = Case(
        family="time",
        build=lambda: _lstm(-5.0),
        batch=recall,
        loss=classify,
        optimizer=adam(1e-3),
        steps=50,
        expect=(
            root("vanishing-through-time", "rnn"),
            root("vanishing-gradient", "rnn"),
            also("saturation", "rnn"),
            *FORGETS,
        ),
        fix=lambda: c.but(build=lambda: _lstm(3.0), optimizer=adam(1e-2), steps=100),
        verify=through_time(below=1e-6),
    )
    return c


@case("s_time_vanish_two_layer_lstm_forgets")
def _() -> Case:
    """Two layers of LSTM, both with the forget bias at −4, under momentum SGD."""
    c = Case(
        family="time",
        build=lambda: _lstm(-4.0, 2),
        batch=lambda step: recall(step, length=24),
        loss=classify,
        optimizer=sgd(0.1, momentum=0.9),
        steps=40,
        expect=(
            root("vanishing-through-time", "rnn"),
            root("vanishing-gradient", "rnn"),
            also("saturation", "rnn"),
            *FORGETS,
        ),
        fix=lambda: c.but(build=lambda: _lstm(3.0, 2), optimizer=adam(1e-2), steps=100),
        verify=through_time(below=1e-6),
        seed=7,
    )
    return c


class CellLoop(nn.Module):
    """A hand-written loop over a cell."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.classifier = cell, nn.Linear(cell.hidden_size, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.cell.hidden_size)
        c = torch.zeros_like(h)
        for now in x.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(now, (h, c))
            else:
                h = self.cell(now, h)
        return self.classifier(h)


def _rnn_cell(gain: float | None) -> nn.Module:
    cell = nn.RNNCell(4, 32)
    if gain:
        nn.init.orthogonal_(cell.weight_hh, gain)
    return CellLoop(cell)


@case("s_time_vanish_rnn_cell_loop_default_init")
def _() -> Case:
    """RNNCell with the library's init over fifty steps: the recurrent matrix' radius is about 0.6."""
    c = Case(
        family="time",
        build=lambda: _rnn_cell(None),
        batch=lambda step: recall(step, length=50),
        loss=classify,
        optimizer=adam(1e-3),
        steps=40,
        expect=(root("vanishing-through-time", "|cell"), root("vanishing-gradient", "|cell"), *FORGETS),
        fix=lambda: c.but(build=lambda: _rnn_cell(1.0), batch=lambda step: recall(step, length=16), steps=80),
        verify=through_time(below=1e-6),
    )
    return c


def _lstm_cell(forget: float) -> nn.Module:
    cell = nn.LSTMCell(4, 20)
    nn.init.constant_(cell.bias_ih[20:40], forget)
    return CellLoop(cell)


@case("s_time_vanish_lstm_cell_loop_forgets")
def _() -> Case:
    """LSTMCell by hand, with the gates' order confused: the bias that should be +4 on 'forget' is −4."""
    c = Case(
        family="time",
        build=lambda: _lstm_cell(-4.0),
        batch=lambda step: recall(step, length=25),
        loss=classify,
        optimizer=adam(2e-3),
        steps=40,
        expect=(
            root("vanishing-through-time", "|cell"),
            root("vanishing-gradient", "|cell"),
            also("saturation", "cell"),
            *FORGETS,
        ),
        fix=lambda: c.but(build=lambda: _lstm_cell(4.0), optimizer=adam(1e-2), steps=100),
        verify=through_time(below=1e-6),
    )
    return c


class Leaky(nn.Module):
    """A state that leaks: h ← decay·h + (1 − decay)·φ(Wx + Uh)."""

    def __init__(self, decay: float, act: nn.Module) -> None:
        super().__init__()
        self.inward, self.across, self.act = nn.Linear(4, 32), nn.Linear(32, 32, bias=False), act
        self.decay, self.readout = decay, nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for now in x.unbind(1):
            h = self.decay * h + (1 - self.decay) * self.act(self.inward(now) + self.across(h))
        return self.readout(h)


@case("s_time_vanish_sigmoid_state_by_hand")
def _() -> Case:
    """A hand-written recurrence whose state is a sigmoid without memory of its own."""
    c = Case(
        family="time",
        build=lambda: Leaky(0.0, nn.Sigmoid()),
        batch=recall,
        loss=classify,
        optimizer=adam(2e-3),
        steps=50,
        expect=(
            root("vanishing-through-time", "|inward|across|act"),
            root("vanishing-gradient", "|inward|across|act"),
            *FORGETS,
        ),
        fix=lambda: c.but(build=lambda: Leaky(0.97, nn.Tanh()), optimizer=adam(4e-3), steps=120),
        verify=through_time(below=1e-6),
    )
    return c


class BothWays(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.encoder = nn.RNN(16, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 4)
        for name, weight in self.encoder.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x))[0][:, x.shape[1] // 2])


@case("s_time_vanish_bidirectional_middle")
def _() -> Case:
    """Both directions are to bring the ends to the middle of forty steps, with a gain of 0.3."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = recall(step, length=40)
        x[:, -1] += 0.2 * randn(len(x), 4, step=step, salt=23)
        return x, y

    c = Case(
        family="time",
        build=lambda: BothWays(0.3),
        batch=batch,
        loss=classify,
        optimizer=adam(2e-3),
        steps=40,
        expect=(root("vanishing-through-time", "encoder"), root("vanishing-gradient", "embed|encoder"), *FORGETS),
        fix=lambda: c.but(build=lambda: BothWays(1.0), steps=100),
        verify=through_time(last=20, below=1e-6),
    )
    return c

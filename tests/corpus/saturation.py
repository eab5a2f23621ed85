"""Bounded activations that stand at their bounds."""

import torch
from corpus.case import Case, adam, also, case, prepare, randn, root, sgd
from corpus.measure import STALLS, outputs
from corpus.parts import Mlp, classify, digits, flat_digits, normal, recall, regress, surface
from torch import Tensor, nn

STUCK = (
    *STALLS,
    also("constant-output"),
    also("forward-variance-explosion"),
    also("rank-collapse"),
    also("no-gradient"),
)


def _at_bounds(name: str, low: float, high: float, *, above: float = 0.9):
    """The share of values within a hundredth of the range from its ends."""

    def verify(k: Case) -> dict[str, object]:
        (out,) = outputs(k, name)
        near = 0.01 * (high - low)
        share = float(((out < low + near) | (out > high - near)).double().mean())
        return {"share": share, "sick": share > above}

    return verify


@case("s_saturate_pixels_0_to_255")
def _() -> Case:
    """Pixels come as 0 … 255 into a tanh network that expects them around zero."""

    def raw(step: int) -> tuple[Tensor, Tensor]:
        x, y = digits(step)
        return 255 * x.flatten(1), y

    c = Case(
        family="units",
        build=lambda: Mlp([64, 48, 32, 10], nn.Tanh),
        batch=raw,
        loss=classify,
        optimizer=sgd(0.02),
        steps=60,
        expect=(root("saturation", r"(layers|acts)\.0"), *STUCK),
        fix=lambda: c.but(batch=flat_digits, optimizer=sgd(0.1, momentum=0.9), steps=80),
        verify=_at_bounds("acts.0", -1, 1, above=0.8),
    )
    return c


class Bottleneck(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.relu = nn.Linear(64, 48), nn.ReLU()
        self.code, self.squash = nn.Linear(48, 24), nn.Sigmoid()
        self.decoder = nn.Sequential(nn.Linear(24, 48), nn.SiLU(), nn.Linear(48, 10))
        self.code.weight.data.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.squash(self.code(self.relu(self.stem(x)))))


@case("s_saturate_sigmoid_code_in_the_middle")
def _() -> Case:
    """The logits of a sigmoid in the middle are hundreds: the code is binary and lets no gradient through."""
    c = Case(
        family="units",
        build=lambda: Bottleneck(1500.0),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(1e-3),
        steps=60,
        expect=(
            root("saturation", r"code|squash"),
            *STUCK,
            also("zero-loss-gradient"),
        ),
        fix=lambda: c.but(build=lambda: Bottleneck(1.0), optimizer=adam(3e-3), steps=100),
        verify=_at_bounds("squash", 0, 1),
    )
    return c


class Memory(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 24, batch_first=True), nn.Linear(24, 4)
        for name, weight in self.lstm.named_parameters():
            if name.startswith("weight"):
                weight.data.mul_(scale)
        nn.init.constant_(self.lstm.bias_ih_l0[24:48], 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def _gates(k: Case) -> dict[str, object]:
    """The share of stuck gates of the first step, computed by hand."""
    model, _ = prepare(k)
    rnn = next(m for m in model.modules() if isinstance(m, nn.RNNBase))
    x = k.batch(0)[0]
    gates = torch.sigmoid(x[:, 0] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0)
    share = float(((gates < 0.01) | (gates > 0.99)).double().mean())
    return {"share": share, "sick": share > 0.6}


@case("s_saturate_lstm_weights_times_200")
def _() -> Case:
    """All weights of an LSTM two hundred times too large: gates are open or shut, whatever comes."""
    c = Case(
        family="units",
        build=lambda: Memory(200.0),
        batch=lambda step: recall(step, length=12),
        loss=classify,
        optimizer=adam(1e-3),
        steps=50,
        expect=(
            root("saturation", "lstm"),
            *STUCK,
            also("vanishing-through-time"),
            also("exploding-through-time"),
            also("exploding-gradient"),
        ),
        fix=lambda: c.but(build=lambda: Memory(1.0), optimizer=adam(1e-2), steps=120),
        verify=_gates,
    )
    return c


@case("s_saturate_gru_unscaled_sensor")
def _() -> Case:
    """A sensor reads in thousands: the gates of the GRU that takes it as it is are stuck."""

    class Sensor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.out = nn.GRU(3, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.gru(x)[0][:, -1])

    def batch(step: int, unit: float = 1000.0) -> tuple[Tensor, Tensor]:
        x = randn(48, 10, 3, step=step, salt=41)
        return unit * x, torch.tanh(x[:, -3:, :1].sum(1))

    c = Case(
        family="units",
        build=Sensor,
        batch=batch,
        loss=regress,
        optimizer=adam(1e-3),
        steps=60,
        expect=(root("saturation", "gru"), *STUCK, also("vanishing-through-time")),
        fix=lambda: c.but(batch=lambda step: batch(step, 1.0), optimizer=adam(1e-2), steps=100),
        verify=_gates,
    )
    return c


class Squeeze(nn.Module):
    def __init__(self, channels: int, bias: float) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(channels, channels // 2), nn.SiLU()
        self.fc2, self.sigmoid = nn.Linear(channels // 2, channels), nn.Sigmoid()
        nn.init.constant_(self.fc2.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.sigmoid(self.fc2(self.act(self.fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Recalibrated(nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.conv1, self.se1 = nn.Conv2d(1, 16, 3, padding=1), Squeeze(16, bias)
        self.conv2, self.se2 = nn.Conv2d(16, 16, 3, stride=2, padding=1), Squeeze(16, 0.0)
        self.act, self.fc = nn.ReLU(), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se1(self.act(self.conv1(x)))
        return self.fc(self.se2(self.act(self.conv2(x))).flatten(1))


@case("s_saturate_squeeze_gate_shut")
def _() -> Case:
    """The channel gate of the first block is shut by a bias of −20; nothing passes, in either direction."""
    c = Case(
        family="units",
        build=lambda: Recalibrated(-20.0),
        batch=digits,
        loss=classify,
        optimizer=adam(1e-3),
        steps=50,
        expect=(
            root("saturation", r"se1(\.\w+)?"),
            root("constant-output", r"se1(\.\w+)?"),
            root("forward-variance-collapse", r"se1(\.\w+)?"),
            *STUCK,
            also("forward-variance-collapse"),
            also("dead-units"),
        ),
        fix=lambda: c.but(build=lambda: Recalibrated(0.0), optimizer=adam(5e-3), steps=100),
        verify=_at_bounds("se1.sigmoid", 0, 1),
    )
    return c


@case("s_saturate_tanh_stack_std_1")
def _() -> Case:
    """Six tanh layers of width 64 drawn with std 1: every unit is at ±1, and the early layers starve."""
    c = Case(
        family="composite",
        build=lambda: Mlp([64] + [64] * 6 + [10], nn.Tanh, normal(1.0)),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(1e-3),
        steps=60,
        expect=(
            root("saturation", r"(layers|acts)\.\d"),
            root("forward-variance-explosion", r"(layers|acts)\.\d"),
            *STUCK,
            also("exploding-gradient"),
        ),
        fix=lambda: c.but(
            build=lambda: Mlp([64] + [64] * 3 + [10], nn.Tanh, normal(0.125)), optimizer=sgd(0.1), steps=80
        ),
        verify=_at_bounds("acts.1", -1, 1, above=0.6),
    )
    return c


class Actor(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.mu, self.squash = nn.Linear(48, 1), nn.Tanh()
        nn.init.uniform_(self.mu.weight, -scale, scale)

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * self.squash(self.mu(self.body(x)))


@case("s_saturate_actor_squashed_actions")
def _() -> Case:
    """The actor's last layer is drawn from ±60 instead of ±0.003: its tanh gives only the extreme actions."""
    c = Case(
        family="units",
        build=lambda: Actor(60.0),
        batch=surface,
        loss=regress,
        optimizer=adam(3e-4),
        steps=60,
        expect=(
            root("saturation", r"mu|squash"),
            *STUCK,
            also("zero-loss-gradient"),
            also("exploding-gradient"),
        ),
        fix=lambda: c.but(build=lambda: Actor(0.003), optimizer=adam(3e-3), steps=120),
        verify=_at_bounds("squash", -1, 1),
    )
    return c

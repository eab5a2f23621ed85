"""What does not matter to the training does not matter to the diagnosis.

Each program is trained as it is and in a way that changes nothing of what it can learn: the scale of the loss under
Adam, its reduction, the size of a batch, the width, the names, who comes first, the precision. The roots stay.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gradscope
from gradscope.findings import Diagnosis, Severity

STEPS = 24


@dataclass(frozen=True)
class Training:
    """One way to train a program."""

    build: Callable[[int], nn.Module]
    rows: int = 64
    width: int = 32
    loss_scale: float = 1.0
    reduction: str = "mean"
    sgd: bool = False
    lr: float = 3e-3
    dtype: torch.dtype = torch.float32
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    attach_first: bool = False
    seed: int = 0

    def run(self) -> Diagnosis:
        torch.manual_seed(self.seed)
        model = self.wrap(self.build(self.width).to(self.dtype))
        scope = gradscope.attach(model) if self.attach_first else None
        rate = self.lr * 30 if self.sgd else self.lr
        per_row = self.rows if self.sgd and self.reduction == "sum" else 1
        kind = torch.optim.SGD if self.sgd else torch.optim.Adam
        optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=rate / per_row)
        scope = scope or gradscope.attach(model, optimizer=optimizer)
        centres = 2 * torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
        for _ in range(STEPS):
            y = torch.randint(3, (self.rows,))
            x = (centres[y] + torch.randn(self.rows, 12)).to(self.dtype)
            optimizer.zero_grad()
            loss = self.loss_scale * F.cross_entropy(model(x), y, reduction=self.reduction)
            scope.record_loss(loss)
            loss.backward()
            optimizer.step()
        scope.detach()
        return scope.diagnose()


def roots(diagnosis: Diagnosis, prefix: str = "") -> set[tuple[str, str]]:
    """Code and module of the roots that cost something."""
    found = [f for f in diagnosis.roots if f.severity.reaches(Severity.WARNING)]
    return {(f.code, f.module.removeprefix(prefix)) for f in found}


def mlp(depth: int, act: Callable[[], nn.Module], change: Callable[[nn.Linear], object] | None = None):
    def build(width: int) -> nn.Module:
        layers: list[nn.Module] = []
        for i in range(depth):
            linear = nn.Linear(12 if i == 0 else width, width)
            if change is not None:
                change(linear)
            layers += [linear, act()]
        return nn.Sequential(*layers, nn.Linear(width, 3))

    return build


class Normed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(12, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(3)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inlet(x)
        for block in self.blocks:
            y = y + block(y)
        return self.head(y)


class Recurrent(nn.Module):
    """Reads the twelve numbers one by one, then `silence` zeros."""

    def __init__(self, width: int, gain: float, silence: int) -> None:
        super().__init__()
        self.rnn, self.head, self.silence = nn.RNN(1, width, batch_first=True), nn.Linear(width, 3), silence
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(F.pad(x, (0, self.silence))[..., None])[0][:, -1])


class Cut(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.front, self.back = nn.Sequential(nn.Linear(12, width), nn.ReLU()), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.front(x).detach())


def dead(width: int) -> nn.Module:
    model = mlp(3, nn.ReLU)(width)
    nn.init.constant_(model[2].bias, -50.0)
    return model


def he(linear: nn.Linear, scale: float = 1.0) -> None:
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    linear.weight.data.mul_(scale)


HEALTHY = {
    "relu": mlp(3, nn.ReLU),
    "deep relu, he": mlp(8, nn.ReLU, he),
    "tanh": mlp(3, nn.Tanh),
    "batch norm": lambda width: nn.Sequential(
        nn.Linear(12, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)
    ),
    "residual": Normed,
    "rnn": lambda width: Recurrent(width, 1.0, 0),
}
SICK = {
    "GS101": mlp(12, nn.Sigmoid),
    "GS103": Cut,
    "GS201": lambda width: Recurrent(width, 0.4, 30),
    "GS301": dead,
    "GS304": mlp(10, nn.ReLU, lambda linear: he(linear, 0.2)),
    "GS305": mlp(10, nn.ReLU, lambda linear: he(linear, 3.0)),
    "GS504": mlp(3, nn.Tanh, lambda linear: (nn.init.constant_(linear.weight, 0.1), nn.init.zeros_(linear.bias))),
}


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.net = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


WAYS: dict[str, dict[str, object]] = {
    "the reduction is a sum": {"reduction": "sum"},
    "a sum under SGD": {"reduction": "sum", "sgd": True},
    "eight rows": {"rows": 8},
    "512 rows": {"rows": 512},
    # what Adam's steps add up to in a matrix grows with its width: at the same rate the RNN that forgets has learned
    # not to after 24 steps
    "four times as wide": {"width": 128, "lr": 3e-3 / 4},
    "wrapped": {"wrap": Wrapper},
    "attached before the optimizer is made": {"attach_first": True},
    "float64": {"dtype": torch.float64},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("program", HEALTHY)
def test_a_healthy_program_stays_healthy(program: str, way: dict[str, object]) -> None:
    diagnosis = replace(Training(HEALTHY[program]), **way).run()
    assert roots(diagnosis) == set(), diagnosis


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("code", SICK)
def test_a_fault_stays_where_it_is(code: str, way: dict[str, object]) -> None:
    training = Training(SICK[code])
    if way.get("sgd"):
        training = replace(training, sgd=True)
        way = {"reduction": "sum"}
    expected = roots(training.run())
    assert {found for found, _ in expected} == {code}
    assert roots(replace(training, **way).run(), prefix="net." if "wrap" in way else "") == expected


EXPONENTS = st.floats(-6, 4)
FEW = settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("program", HEALTHY)
@FEW
@given(exponent=EXPONENTS, seed=st.integers(0, 99))
def test_the_scale_of_the_loss_makes_nothing_sick(program: str, exponent: float, seed: int) -> None:
    diagnosis = Training(HEALTHY[program], loss_scale=10**exponent, seed=seed).run()
    assert roots(diagnosis) == set(), diagnosis


@pytest.mark.parametrize("code", SICK)
@FEW
@given(exponent=EXPONENTS, seed=st.integers(0, 99))
def test_the_scale_of_the_loss_heals_nothing(code: str, exponent: float, seed: int) -> None:
    training = Training(SICK[code], seed=seed)
    assert roots(replace(training, loss_scale=10**exponent).run()) == roots(training.run())

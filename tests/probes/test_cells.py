"""Cells in Python loops, each number against autograd's own for a loop written out without a hook of ours."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.probes import Cells
from gradscope.trace import Trace

B, X, H, T = 3, 4, 5, 6


class Leaf(nn.Module):
    """A cell with its own parameters and no children; the bare state."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.5 * torch.randn(X, H))
        self.u = nn.Parameter(0.5 * torch.randn(H, H))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(x @ self.w + h @ self.u)


class StateFirst(Leaf):
    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return super().forward(x, h)


class Children(nn.Module):
    """The character RNN of the tutorials: (output, state)."""

    def __init__(self) -> None:
        super().__init__()
        self.i2h, self.i2o = nn.Linear(X + H, H), nn.Linear(X + H, 2)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([x, hidden], 1)
        return self.i2o(both), torch.tanh(self.i2h(both))


class Pair(nn.Module):
    """An LSTM written by hand: (h, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(X + H, 4 * H)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> object:
        h, c = state
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class OutputAndPair(Pair):
    """The same as the fused layers return it: (output, (h, c))."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> object:
        h, c = super().forward(x, state)
        return 2 * h, (h, c)


def states_of(returned: object) -> tuple[Tensor, ...]:
    """What a cell hands on, of whatever kind it is."""
    match returned:
        case Tensor():
            return (returned,)
        case (_, (h, c)):
            return h, c
        case (output, state) if output.shape[1] == 2:
            return (state,)
        case (h, c):
            return h, c
    raise AssertionError(returned)


# name of the cell: how to make it, and what its states are called
CELLS = {
    "nn.RNNCell": (lambda: nn.RNNCell(X, H), ("h",)),
    "nn.RNNCell relu": (lambda: nn.RNNCell(X, H, nonlinearity="relu"), ("h",)),
    "nn.GRUCell": (lambda: nn.GRUCell(X, H), ("h",)),
    "nn.LSTMCell": (lambda: nn.LSTMCell(X, H), ("h", "c")),
    "a leaf": (Leaf, ("h",)),
    "state first": (StateFirst, ("h",)),
    "output and state": (Children, ("h.1",)),
    "an LSTM by hand": (Pair, ("h.0", "h.1")),
    "as a fused layer returns": (OutputAndPair, ("h.1.0", "h.1.1")),
}
STARTS = {"h": "h0", "c": "c0", "h.0": "h0.0", "h.1": "h0.1", "h.1.0": "h0.1.0", "h.1.1": "h0.1.1"}
every_cell = pytest.mark.parametrize("kind", CELLS)


class Loop(nn.Module):
    """Calls its cell once for each position, and reads the states at all of them."""

    def __init__(self, cell: nn.Module, *, keyword: bool = False) -> None:
        super().__init__()
        self.project, self.cell, self.head = nn.Linear(X, X), cell, nn.Linear(H, 2)
        self.keyword = keyword
        self.record: list[tuple[Tensor, ...]] | None = None

    def call(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = states[0] if len(states) == 1 else states
        if isinstance(self.cell, StateFirst):
            return states_of(self.cell(given, x))
        if self.keyword:
            return states_of(self.cell(x, **{"hx" if "nn" in type(self.cell).__module__ else "state": given}))
        return states_of(self.cell(x, given))

    def forward(self, x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        x, loss = self.project(x), torch.zeros(())
        for t in range(len(x)):
            states = self.call(x[t], states)
            if self.record is not None:
                self.record.append(states)
            loss = loss + (t + 1) * self.head(states[0]).square().mean()
        return loss


def start(kind: str, *, grad: bool = False, scale: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    names = CELLS[kind][1]
    return tuple((scale * torch.randn(B, H, generator=generator)).requires_grad_(grad) for _ in names)


def loop_of(kind: str, **options: bool) -> Loop:
    torch.manual_seed(3)
    return Loop(CELLS[kind][0](), **options)


def wanted(loop: Loop, x: Tensor, states: tuple[Tensor, ...]) -> tuple[list[list[float]], list[list[float]]]:
    """‖h_t‖ and ‖∂L/∂h_t‖ for each state and time, by autograd on a copy."""
    twin = copy.deepcopy(loop)
    twin.record = []
    loss = twin(x, states)
    found, norms = [], []
    for index in range(len(states)):
        tensors = [states[index] for states in twin.record]
        grads = torch.autograd.grad(loss, tensors, retain_graph=True)
        norms.append([float(t.detach().norm()) for t in tensors])
        found.append([float(g.norm()) for g in grads])
    return norms, found


def times(trace: Trace, quantity: str, name: str, module: str = "cell", step: int = 0) -> list[float]:
    return trace.by_time(module, quantity, "l2_norm", name=name)[step].tolist()


def names(trace: Trace, quantity: str, module: str = "cell") -> list[str]:
    """The sites that were observed."""
    numel = trace.statistics["numel"]
    return [trace.sites[i].name for i in trace.columns(quantity, module) if not np.isnan(numel[:, i]).all()]


def starts(trace: Trace, quantity: str, name: str, module: str = "cell") -> dict[int, float]:
    """time → ‖h0‖ of the first step, of those that were observed."""
    row = times(trace, quantity, name, module)
    return {t: value for t, value in enumerate(row) if not np.isnan(value)}


@every_cell
def test_states_and_their_gradients_are_those_of_an_explicit_loop(kind):
    loop, x = loop_of(kind), torch.randn(T, B, X)
    states, grads = wanted(loop, x, start(kind))
    with gradscope.attach(loop) as scope:
        for _ in range(2):  # the second time the cell is known from the first call on
            loop(x, start(kind)).backward()
            scope.step()
    trace = scope.trace
    assert not trace.events
    for index, name in enumerate(CELLS[kind][1]):
        for step in range(2):
            assert times(trace, "state", name, step=step) == pytest.approx(states[index], rel=1e-5)
            assert times(trace, "state_grad", name, step=step) == pytest.approx(grads[index], rel=1e-5)
            given = trace.series("cell", "state", "l2_norm", name=STARTS[name])
            assert given[step] == pytest.approx(float(start(kind)[index].norm()), rel=1e-5)
    assert sorted(names(trace, "state_grad")) == sorted(CELLS[kind][1]), "h0 has no gradient where it wants none"
    assert len(trace.times.time[trace.times.site == trace.column("cell", "state", STARTS[name])]) == 0
    assert trace.sites[trace.column("cell", "state")].name == CELLS[kind][1][0]
    assert trace.sites[trace.column("cell", "state_grad")].name == CELLS[kind][1][0]
    assert trace.sites[trace.column("cell", "state")].depth > 0

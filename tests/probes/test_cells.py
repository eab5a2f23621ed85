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


# ------------------------------------------------------------------------------------------------ where sequences begin


@every_cell
def test_a_given_state_that_wants_a_gradient_has_one(kind):
    loop, x = loop_of(kind), torch.randn(T, B, X)
    with gradscope.attach(loop) as scope:
        for _ in range(2):
            states = start(kind, grad=True)
            loop(x, states).backward()
            scope.step()
    own = [float(s.grad.norm()) for s in states]
    for index, name in enumerate(CELLS[kind][1]):
        found = scope.trace.series("cell", "state_grad", "l2_norm", name=STARTS[name])
        assert found.tolist() == pytest.approx([own[index]] * 2, rel=1e-5)
        assert not states[index]._backward_hooks, "a leaf outlives the step, our hook does not"
    assert scope.trace.sites[scope.trace.column("cell", "state_grad")].name == CELLS[kind][1][0]


@pytest.mark.parametrize("kind", ["nn.RNNCell", "nn.GRUCell", "nn.LSTMCell"])
@pytest.mark.parametrize("form", ["None", "left out"])
def test_without_a_state_torch_begins_with_zeros(kind, form):
    class FromNothing(Loop):
        def call(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if states:
                return super().call(x, states)
            return states_of(self.cell(x) if form == "left out" else self.cell(x, None))

    torch.manual_seed(0)
    loop, x = FromNothing(CELLS[kind][0]()), torch.randn(T, B, X)
    with gradscope.attach(loop) as scope:
        loop(x, ()).backward()
    for name in CELLS[kind][1]:
        index = scope.trace.column("cell", "state", STARTS[name])
        assert scope.trace.statistics["rms"][0, index] == 0
        assert scope.trace.statistics["numel"][0, index] == B * H
    zeros = tuple(torch.zeros(B, H) for _ in CELLS[kind][1])
    assert times(scope.trace, "state_grad", "h") == pytest.approx(wanted(loop, x, zeros)[1][0], rel=1e-5)
    assert "h0" not in names(scope.trace, "state_grad")


@pytest.mark.parametrize("kind", ["nn.LSTMCell", "an LSTM by hand"])
def test_states_given_by_keyword(kind):
    loop, x = loop_of(kind, keyword=True), torch.randn(T, B, X)
    _, grads = wanted(loop, x, start(kind))
    with gradscope.attach(loop) as scope:
        loop(x, start(kind)).backward()
    for index, name in enumerate(CELLS[kind][1]):
        assert times(scope.trace, "state_grad", name) == pytest.approx(grads[index], rel=1e-5)
        assert starts(scope.trace, "state", STARTS[name]) == {0: pytest.approx(float(start(kind)[index].norm()))}


@every_cell
def test_micro_batches_of_a_step_follow_each_other_in_time(kind):
    loop, x = loop_of(kind), torch.randn(2, T, B, X)
    parts = [wanted(loop, part, start(kind, scale=scale)) for part, scale in zip(x, (1, 2), strict=True)]
    with gradscope.attach(loop) as scope:
        for _ in range(2):
            (loop(x[0], start(kind)) + loop(x[1], start(kind, scale=2))).backward()
            scope.step()
    for index, name in enumerate(CELLS[kind][1]):
        for step in range(2):
            assert times(scope.trace, "state", name, step=step) == pytest.approx(
                parts[0][0][index] + parts[1][0][index], rel=1e-5
            )
            assert times(scope.trace, "state_grad", name, step=step) == pytest.approx(
                parts[0][1][index] + parts[1][1][index], rel=1e-5
            )
        norm = float(start(kind)[index].norm())
        assert starts(scope.trace, "state", STARTS[name]) == {0: pytest.approx(norm), T: pytest.approx(2 * norm)}


def windows(loop: Loop, x: Tensor, kind: str, kept: list[tuple[Tensor, ...]], way: str) -> list[Tensor]:
    """The losses of windows of three positions, cut off from each other."""
    states, losses = start(kind), []
    for first in range(0, len(x), 3):
        loss = torch.zeros(())
        for position in loop.project(x[first : first + 3]):
            states = loop.call(position, states)
            kept.append(states)
            loss = loss + loop.head(states[0]).square().mean()
        losses.append(loss)
        if way == "detach_":
            loss.backward()  # torch refuses it before
            for state in states:
                state.detach_()
        else:
            states = tuple(s.detach() for s in states)
    return losses


@every_cell
@pytest.mark.parametrize("way", ["detach", "detach_"])
def test_a_detached_state_is_a_cut(kind, way):
    loop, x = loop_of(kind), torch.randn(T, B, X)
    kept: list[tuple[Tensor, ...]] = []
    loss = sum(windows(copy.deepcopy(loop), x, kind, kept, "detach"))
    flat = torch.autograd.grad(loss, [s for states in kept for s in states])
    with gradscope.attach(loop, optimizer=torch.optim.SGD(loop.parameters(), lr=0.1)) as scope:
        losses = windows(loop, x, kind, [], way)
        if way == "detach":
            sum(losses).backward()
    several = len(CELLS[kind][1])
    for index, name in enumerate(CELLS[kind][1]):
        first, last = float(start(kind)[index].norm()), float(kept[2][index].detach().norm())
        assert starts(scope.trace, "state", STARTS[name]) == {0: pytest.approx(first), 3: pytest.approx(last)}
        assert STARTS[name] not in names(scope.trace, "state_grad"), "nothing goes back over the cut"
        grads = [float(g.norm()) for g in flat[index::several]]
        assert times(scope.trace, "state_grad", name) == pytest.approx(grads, rel=1e-5)


@every_cell
def test_an_initial_state_that_the_loop_lets_go_of_is_seen(kind):
    class Inside(Loop):
        def forward(self, x: Tensor, _: object = None) -> Tensor:
            return super().forward(x, start(kind))

        def call(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return super().call(x, tuple(s.clone() for s in states) if not states[0].requires_grad else states)

    torch.manual_seed(0)
    loop = Inside(CELLS[kind][0]())
    with gradscope.attach(loop) as scope:
        loop(torch.randn(T, B, X)).backward()
    for index, name in enumerate(CELLS[kind][1]):
        norm = float(start(kind)[index].norm())
        assert starts(scope.trace, "state", STARTS[name]) == {0: pytest.approx(norm)}


def test_a_learned_initial_state_leaves_no_hook_and_can_be_forgotten():
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.h0 = nn.GRUCell(X, H), nn.Parameter(torch.ones(B, H))

        def forward(self, x: Tensor) -> Tensor:
            h = self.h0
            for position in x:
                h = self.cell(position, h)
            return h.sum()

    def train() -> "weakref.ref[nn.Module]":
        model = Learned()
        scope = gradscope.attach(model, probes=[Cells()])
        for _ in range(2):
            model.zero_grad()
            model(torch.randn(T, B, X)).backward()
            scope.step()
            assert scope.trace.series("cell", "state_grad", "l2_norm", name="h0")[-1] == pytest.approx(
                float(model.h0.grad.norm())
            )
        return weakref.ref(model)

    kept = train()
    gc.collect()
    assert kept() is None


# what happens to the state on its way from one call to the next
WAYS = {
    "a mask": lambda h, before: torch.where(torch.arange(B)[:, None] < 2, h, before),
    "a product": lambda h, before: 0.9 * h + 0.1 * before,
    "a dropout": lambda h, before: nn.functional.dropout(h, 0.5),
    "a norm": lambda h, before: nn.functional.layer_norm(h, (H,)),
    "in place": lambda h, before: h.mul_(0.9),
    "a stack": lambda h, before: torch.stack([h, h])[1],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_sequence_goes_on_through_what_the_loop_does_to_its_state(way):
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(X, H)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.ones(B, H)
            for position in x:
                h = way(self.cell(position, h), h)
            return h.square().sum()

    model = Changed()
    with gradscope.attach(model, probes=[Cells()]) as scope:
        model(torch.randn(T, B, X)).backward()
    assert list(starts(scope.trace, "state", "h0")) == [0]
    assert np.isfinite(times(scope.trace, "state_grad", "h")).all()


def test_the_state_of_an_encoder_begins_the_decoder():
    class Translate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.GRUCell(X, H), nn.GRUCell(X, H)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = None
            for position in x:
                h = self.encode(position, h)
            first = h
            for position in x:
                h = self.decode(position, h)
            return h.square().sum(), first

    model, x = Translate(), torch.randn(T, B, X)
    with gradscope.attach(model, probes=[Cells()]) as scope:
        model(x)[0].backward()
    loss, first = model(x)
    (grad,) = torch.autograd.grad(loss, first)
    assert times(scope.trace, "state_grad", "h0", "decode") == [pytest.approx(float(grad.norm()))]
    assert times(scope.trace, "state_grad", "h", "encode")[-1] == pytest.approx(float(grad.norm()))


# ------------------------------------------------------------------------------------------------ the model is the cell


@pytest.mark.parametrize("kind", ["output and state", "nn.LSTMCell", "a leaf"])
def test_the_model_itself_is_called_once_for_each_position(kind):
    torch.manual_seed(0)
    cell, x = CELLS[kind][0](), torch.randn(T, B, X)
    twin = copy.deepcopy(cell)
    optimizer = torch.optim.SGD(cell.parameters(), lr=0.0)

    def loss_of(cell: nn.Module, kept: list[tuple[Tensor, ...]]) -> Tensor:
        states, loss = start(kind), torch.zeros(())
        for position in x:
            states = states_of(cell(position, states[0] if len(states) == 1 else states))
            kept.append(states)
            loss = loss + states[0].square().sum()
        return loss

    with gradscope.attach(cell, optimizer=optimizer) as scope:
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(cell, []).backward()
            with torch.no_grad():
                loss_of(cell, [])
            optimizer.step()
    kept: list[tuple[Tensor, ...]] = []
    loss = loss_of(twin, kept)
    for index, name in enumerate(CELLS[kind][1]):
        grads = torch.autograd.grad(loss, [states[index] for states in kept], retain_graph=True)
        for step in range(3):
            assert times(scope.trace, "state_grad", name, "", step) == pytest.approx([float(g.norm()) for g in grads])
            found = times(scope.trace, "state", name, "", step)
            assert found == pytest.approx([float(s[index].detach().norm()) for s in kept])
        assert starts(scope.trace, "state", STARTS[name], "") == {0: pytest.approx(float(start(kind)[index].norm()))}


# ------------------------------------------------------------------------------------------------ what is no cell


class Block(nn.Module):
    """Takes a tensor and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(X, X)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = x + torch.tanh(self.fc(x))
        return y if mask is None else y * mask


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(X, X)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *rest: Tensor) -> Tensor:
        return torch.softmax(self.q(query) @ key.transpose(-1, -2), -1) @ value


def siamese(m: nn.Module, x: Tensor) -> Tensor:
    return m(x, torch.ones(X)) + m(2 * x, torch.ones(X))


def again(m: nn.Module, x: Tensor) -> Tensor:
    mask = torch.ones(X)
    for _ in range(4):
        x = m(x, mask)
    return x


def without_mask(m: nn.Module, x: Tensor) -> Tensor:
    return m(m(m(x)))


def self_attention(m: nn.Module, x: Tensor) -> Tensor:
    for _ in range(3):
        x = m(x, x, x)
    return x


def memory(m: nn.Module, x: Tensor) -> Tensor:
    y = x
    for _ in range(3):
        y = m(y, x, x)
    return y


def distributed(m: nn.Module, x: Tensor) -> Tensor:
    return sum(m(position) for position in x)


def steps_of_a_loop(m: nn.Module, x: Tensor) -> Tensor:
    y = x
    for _ in range(3):
        y = torch.tanh(m(x, y, x)) + y
    return y


NO_CELLS = {
    "towers that share their weights": (Block, siamese),
    "a block applied again": (Block, again),
    "a block applied again, without its mask": (Block, without_mask),
    "self-attention": (Attention, self_attention),
    "attention to a memory": (Attention, memory),
    "a part of a loop": (Attention, steps_of_a_loop),
    "a layer at each position": (lambda: nn.Linear(X, X), distributed),
    "torch's attention": (lambda: nn.MultiheadAttention(X, 1), lambda m, x: m(m(x, x, x)[0], x, x)[0]),
    "torch's block": (lambda: nn.TransformerEncoderLayer(X, 1, 8), lambda m, x: m(m(x, torch.zeros(2, 2)))),
}


@pytest.mark.parametrize(("build", "use"), NO_CELLS.values(), ids=NO_CELLS)
def test_what_runs_several_times_need_not_be_a_cell(build, use):
    model = nn.ModuleDict({"m": build()})
    x = torch.randn(2, B, X)
    with gradscope.attach(model) as scope:
        for _ in range(2):
            use(model["m"], x).sum().backward()
            scope.step()
    assert not scope.trace.columns("state")
    assert not scope.trace.columns("state_grad")


class Decoder(nn.Module):
    """Reads an output from the state of what it is wrapped around."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(H, 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.inner, nn.GRU):
            y, h = self.inner(x[None], h)
            return self.head(y), h
        h = self.inner(x, h)
        return self.head(h), h


class Stacked(nn.Module):
    """Two cells, one upon the other; the states are a list."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([StateFirst(), nn.GRUCell(H, H)])

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        states = [self.cells[0](states[0], x), states[1]]
        states[1] = self.cells[1](states[0], states[1])
        return states[1], states


WRAPPED = {
    "a fused layer": (lambda: Decoder(nn.GRU(X, H)), torch.zeros(1, B, H), ["inner"]),
    "torch's cell": (lambda: Decoder(nn.GRUCell(X, H)), torch.zeros(B, H), ["inner"]),
    "a hand-written cell": (lambda: Decoder(Leaf()), torch.zeros(B, H), ["inner"]),
    "two of them": (Stacked, [torch.zeros(B, H), torch.zeros(B, H)], ["cells.0", "cells.1"]),
}


@pytest.mark.parametrize(("build", "h", "owners"), WRAPPED.values(), ids=WRAPPED)
def test_a_state_belongs_to_the_innermost_module_that_it_is_passed_on_to(build, h, owners):
    model = build()
    with gradscope.attach(model) as scope:
        loss = torch.zeros(())
        for position in torch.randn(T, B, X):
            y, h = model(position, h)
            loss = loss + y.sum()
        loss.backward()
    found = {scope.trace.sites[i].module for i in scope.trace.columns("state")}
    assert sorted(found) == owners
    for owner in owners:
        assert scope.trace.by_time(owner, "state_grad", "l2_norm").shape == (1, T)


# ------------------------------------------------------------------------------------------------ no harm


@every_cell
def test_training_is_bit_identical(kind):
    def train(watched: bool) -> list[Tensor]:
        loop = loop_of(kind)
        optimizer = torch.optim.Adam(loop.parameters(), lr=1e-2)
        scope = gradscope.attach(loop, optimizer=optimizer, every=2) if watched else None
        for step in range(6):
            x = torch.randn(T, B, X, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loop(x, start(kind)).backward()
            optimizer.step()
        if scope:
            assert not scope.trace.events
            assert len(scope.trace.steps) == 3
            assert names(scope.trace, "state_grad") == list(CELLS[kind][1])
            scope.detach()
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in loop.modules())
        return [*loop.state_dict().values(), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


@every_cell
def test_no_state_outlives_its_step(kind):
    loop = loop_of(kind)
    alive: list[weakref.ref[Tensor]] = []
    loop.cell.register_forward_hook(lambda m, args, y: alive.extend(weakref.ref(s) for s in states_of(y)))
    scope = gradscope.attach(loop, probes=[Cells()])
    for _ in range(2):
        loss = loop(torch.randn(T, B, X), start(kind))
        loss.backward()
        del loss
        gc.collect()
        assert not any(ref() is not None for ref in alive), "the training let go of it, so must we"
        scope.step()


def test_the_output_of_what_is_no_cell_dies_with_its_last_reader():
    model = nn.ModuleDict({"m": Block()})
    with gradscope.attach(model, probes=[Cells()]):
        x = torch.randn(B, X, requires_grad=True)
        y = model["m"](x.tanh(), torch.ones(X))
        kept = weakref.ref(y)
        del y
        assert kept() is None


@pytest.mark.parametrize("kind", ["nn.GRUCell", "output and state"])
def test_evaluation_is_not_counted(kind):
    loop, x = loop_of(kind), torch.randn(T, B, X)
    _, grads = wanted(loop, x, start(kind))
    with gradscope.attach(loop) as scope:
        for _ in range(2):
            with torch.no_grad():
                loop(x, start(kind))
            loop(x, start(kind)).backward()
            scope.step()
    name = CELLS[kind][1][0]
    for step in range(2):
        assert times(scope.trace, "state_grad", name, step=step) == pytest.approx(grads[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["nn.GRUCell", "a leaf"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_is_counted_once(kind, whole):
    class Checkpointed(Loop):
        def call(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if whole:
                return super().call(x, states)
            return states_of(checkpoint(self.cell, x, *states, use_reentrant=False))

        def forward(self, x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
            if not whole or torch._C._current_graph_task_id() != -1 or self.record is not None:
                return super().forward(x, states)
            return checkpoint(super().forward, x, states, use_reentrant=False)

    torch.manual_seed(0)
    loop, x = Checkpointed(CELLS[kind][0]()), torch.randn(T, B, X)
    twin = copy.deepcopy(loop)
    twin.record = []
    loss = twin(x, start(kind))
    grads = torch.autograd.grad(loss, [states[0] for states in twin.record])
    with gradscope.attach(loop) as scope:
        for _ in range(2):
            loop(x, start(kind)).backward()
            scope.step()
    assert not scope.trace.events
    for step in range(2):
        assert len(times(scope.trace, "state", "h", step=step)) == T
        found = times(scope.trace, "state_grad", "h", step=step)
        assert found == pytest.approx([float(g.norm()) for g in grads], rel=1e-5)


def test_a_transform_is_left_alone():
    cell = nn.GRUCell(X, H)
    model = nn.ModuleDict({"cell": cell})
    with gradscope.attach(model) as scope:
        h = torch.zeros(B, H)
        for position in torch.randn(T, B, X):
            torch.func.grad(lambda h, x=position: cell(x, h).sum())(h)
            h = cell(position, h)
        h.sum().backward()
    assert not scope.trace.events
    assert len(times(scope.trace, "state", "h")) == T


def test_a_scaled_loss_has_the_gradients_of_the_loss():
    class Scaler:
        def get_scale(self) -> float:
            return 1024.0

    loop, x = loop_of("nn.GRUCell"), torch.randn(T, B, X)
    _, grads = wanted(loop, x, start("nn.GRUCell"))
    with gradscope.attach(loop, scaler=Scaler()) as scope:
        (1024 * loop(x, start("nn.GRUCell"))).backward()
    assert times(scope.trace, "state_grad", "h") == pytest.approx(grads[0], rel=1e-5)


def test_a_module_from_a_program_without_a_name_can_be_attached():
    names: dict[str, object] = {}  # as in a notebook's or a debugger's exec
    exec("from torch import nn\nclass Own(nn.Linear):\n    def forward(self, x, h): return x + h", names)
    cell = names["Own"](2, 2)  # type: ignore[operator]
    with gradscope.attach(cell) as scope:
        h = torch.zeros(1, 2)
        for x in torch.randn(3, 1, 2):
            h = cell(x * cell.weight.sum(), h)
        h.sum().backward()
    assert scope.trace.by_time("", "state", "rms").shape == (1, 3)

"""Which module is given what another has returned: what the probe sees of real models, and that it does no harm."""

import gc
import weakref

import pytest
import torch
import torch._dynamo.convert_frame
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from watching import Training, assert_undisturbed

import gradscope
from gradscope.flow import flow_of
from gradscope.links import INPUT, OUTPUT, Links, Side, adds_up_rows
from gradscope.probes.flow import STEPS


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class InPlace(nn.Module):
    """As in a ResNet: one inplace ReLU in all places, and a sum in place."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.norm(self.a(x)))
        y = self.b(x)
        y += x
        return self.c(self.relu(y).flatten(1))


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = torch.zeros(len(x), 4)
        for t in range(70):
            h = self.cell(x[:, t % 2 :][:, :2], h)
        return self.head(h)


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 3)
        self.reentrant = reentrant

    def forward(self, x):
        return self.c(checkpoint(self.b, self.a(x), use_reentrant=self.reentrant))


class Split(nn.Module):
    """Several outputs of one node."""

    def __init__(self):
        super().__init__()
        self.both, self.left, self.right, self.head = (nn.Linear(4, n) for n in (8, 4, 4, 3))
        self.left, self.right, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 3)

    def forward(self, x):
        left, right = self.both(x).chunk(2, dim=1)
        return self.head(torch.cat([self.left(left), self.right(right) * torch.sigmoid(left)], dim=1))


class Parts(nn.Module):
    """Its own forward never runs."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 3)


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(5, 4), nn.LSTM(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        _, (hidden, _) = self.rnn(self.words(x.abs().long().clamp(max=4)))
        return self.head(hidden[-1])


class Alternating(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.heads, self.turn = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 3) for _ in range(3)), 0

    def forward(self, x):
        self.turn += 1
        return self.heads[self.turn % 3](self.trunk(x))


def train(model, *, steps=2, forward=None, **options):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradscope.attach(model, optimizer=optimizer, **options) as scope:
        for _ in range(steps):
            optimizer.zero_grad()
            (forward or model)(torch.randn(6, 4)).square().mean().backward()
            optimizer.step()
    assert [event for event in scope.trace.events if event.kind == "probe-failed"] == []
    return scope.trace


def edges(trace):
    """(from, to, functions) of modules alone; "a?" is what `a` was given."""
    names = {INPUT: "in", OUTPUT: "out"}
    return {
        (
            names.get(link.source.module, link.source.module + "?" * (link.source.side is Side.GIVEN)),
            names.get(link.target.module, link.target.module),
            link.through,
        )
        for link, _ in Links.of(trace.meta)
    }


ADD = ("AddBackward0",)
SEEN = {
    "chain": (
        nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
        {("in", "0", ()), ("0", "1", ()), ("1", "out", ())},
    ),
    "functions and a skip": (
        nn.Sequential(nn.Linear(4, 4), Block()),
        {
            ("in", "0", ()), ("0", "1.norm", ()), ("1.norm", "1.fc1", ()), ("1.fc1", "1.gelu#0", ()),
            ("1.gelu#0", "1.fc2", ()), ("1.fc2", "out", ADD), ("0", "out", ADD),
        },
    ),
    "in place": (
        InPlace(),
        {
            ("in", "a", ()), ("a", "norm", ()), ("norm", "relu", ()), ("relu", "b", ()), ("b", "relu", ADD),
            ("relu", "relu", ADD), ("relu", "c", ("ViewBackward0",)), ("relu", "c", ()), ("c", "out", ()),
        },
    ),
    "two outputs of one node": (
        Split(),
        {
            ("in", "both", ()), ("both", "left", ("SplitBackward0",)), ("both", "right", ("SplitBackward0",)),
            ("left?", "sigmoid#0", ()), ("left", "head", ("CatBackward0",)),
            ("right", "head", ("MulBackward0", "CatBackward0")),
            ("sigmoid#0", "head", ("MulBackward0", "CatBackward0")), ("head", "out", ()),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "expected"), SEEN.values(), ids=SEEN)
def test_edges(model, expected):
    found = edges(train(model))
    # a flattening of what is flat already is the tensor itself
    assert found == expected or found == expected - {("relu", "c", ("ViewBackward0",))}


def test_states_lead_from_a_nested_output():
    flow = flow_of(train(Lookup()))
    assert flow.backbone == ("words", "rnn", "head")


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_is_seen_through(reentrant):
    assert flow_of(train(Checkpointed(reentrant=reentrant))).feeds("b.1") == ("b.0",)
    assert flow_of(train(Checkpointed(reentrant=reentrant))).backbone == ("a", "b.0", "b.1", "c")


def test_a_long_loop_keeps_its_beginning_and_its_end():
    trace = train(Loop())
    assert flow_of(trace).backbone == ("cell", "head")
    assert max(call for _, pair in Links.of(trace.meta) for call in pair) == 63


def test_parts_that_are_called_by_themselves():
    model = Parts()
    assert flow_of(train(model, forward=lambda x: model.decoder(model.encoder(x)))).backbone == ("encoder", "decoder")


def test_parts_that_take_turns_are_all_seen():
    found = flow_of(train(Alternating(), steps=4))
    assert all(found.feeds(f"heads.{i}") == ("trunk",) for i in range(3))


def test_a_frozen_part_is_followed_by_the_tensors_themselves():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    assert flow_of(train(model)).backbone == ("0", "1", "2")


def hooks_over_time() -> list[int]:
    """How many hooks a layer has after each of some steps."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    counts = []
    with gradscope.attach(model, optimizer=optimizer):
        for _ in range(STEPS + 2):
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()
            counts.append(len(model[0]._forward_hooks) + len(model[0]._forward_pre_hooks))
    assert not model[0]._forward_hooks
    return counts


def test_only_the_first_steps_are_looked_at_and_then_the_hooks_are_gone(monkeypatch):
    monkeypatch.setattr(torch._dynamo.convert_frame, "FRAME_COUNTER", 0)  # whatever ran in this process before
    counts = hooks_over_time()
    assert counts[STEPS - 1] - counts[-1] == 2


def test_where_something_was_compiled_the_hooks_stay_so_that_nothing_is_compiled_anew(monkeypatch):
    monkeypatch.setattr(torch._dynamo.convert_frame, "FRAME_COUNTER", 1)
    assert len(set(hooks_over_time())) == 1


def test_no_graph_is_kept_alive():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    kept = []
    model[1].register_forward_hook(lambda module, args, output: kept.append(weakref.ref(output)))
    with gradscope.attach(model, optimizer=optimizer):
        loss = model(torch.randn(2, 4)).sum()
        loss.backward()
        del loss
        gc.collect()
        assert kept[0]() is None
        model(torch.randn(2, 4))  # nor one without a backward
        gc.collect()
        assert kept[1]() is None


MODELS = {
    "in place": InPlace, "loop": Loop, "reentrant": lambda: Checkpointed(reentrant=True), "split": Split,
    "block": lambda: nn.Sequential(Block(), Block(), nn.Linear(4, 3)), "lookup": Lookup,
}  # fmt: skip


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_training_stays_the_same_to_the_bit(build):
    def make():
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

        def step(index):
            loss = model(torch.randn(6, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return Training(model, [optimizer], step)

    assert_undisturbed(make, steps=STEPS + 2)


class Hop(nn.Module):
    """A layer of a graph net: a mean over neighbours, if it is given some, of what its own weight makes."""

    def __init__(self, neighbours):
        super().__init__()
        self.weight, self.neighbours = nn.Parameter(torch.randn(4, 4)), neighbours

    def forward(self, x):
        h = x @ self.weight
        return h if self.neighbours is None else self.neighbours @ h


@pytest.mark.parametrize("mean", [torch.full((6, 6), 1 / 6), torch.full((6, 6), 1 / 6).to_sparse(), None])
def test_rows_that_a_module_of_ones_own_adds_up_show(mean):
    model = nn.Sequential(nn.Linear(3, 4), Hop(mean))
    with gradscope.attach(model) as scope:
        model(torch.randn(6, 3)).sum().backward()
    flow = flow_of(scope.trace)
    inside = flow.through.get((*flow.given("1"), *flow.returned("1")), ())
    assert any(map(adds_up_rows, inside)) == (mean is not None)
    assert flow.backbone == ("0", "1")

"""Rows for each position of a sequence module, against autograd on a forward pass that is written out."""

import copy

import numpy as np
import pytest
import torch
from test_statistics import assert_measures
from torch import Tensor, nn

import gradscope
from gradscope.probes import Activations, Gradients
from gradscope.records import STATISTICS
from gradscope.trace import Trace

B, T, C = 3, 6, 8


class Encoder(nn.Module):
    """Two blocks that take (batch, time, feature); the second one's output is read at its last position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, C)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(C, 2, 16, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(C, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return self.head(x[:, -1])


class Convolutions(nn.Module):
    """Convolutions over (batch, channel, time): the second one shortens the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv1d(C, 5, 3, padding=1), nn.ReLU(), nn.Conv1d(5, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(x)))


def rows(trace: Trace, module: str, quantity: str, step: int = 0) -> np.ndarray:
    """All statistics by position, read as a user does: without the name of the site."""
    return np.stack([trace.by_time(module, quantity, s)[step] for s in STATISTICS], axis=1)


def assert_positions(trace: Trace, module: str, quantity: str, wanted: Tensor, axis: int) -> None:
    found = rows(trace, module, quantity)
    assert len(found) == wanted.shape[axis]
    for position, row in zip(wanted.unbind(axis), found, strict=True):
        assert_measures(row, position)
    whole = np.array([trace.series(module, quantity, s)[0] for s in STATISTICS])
    assert_measures(whole, wanted)


@pytest.mark.parametrize("axis", [1, -2])
def test_blocks_of_a_transformer(axis):
    torch.manual_seed(0)
    model = Encoder()
    ids, mask = torch.randint(20, (B, T)), nn.Transformer.generate_square_subsequent_mask(T)
    twin = copy.deepcopy(model)
    with gradscope.attach(model, time_axes={"layers.?": axis}) as scope:
        model(ids, mask).square().sum().backward()
    a = twin.embed(ids)
    b = twin.layers[0](a, src_mask=mask)
    c = twin.layers[1](b, src_mask=mask)
    grads = torch.autograd.grad(twin.head(c[:, -1]).square().sum(), [a, b, c])
    for module, given, returned, given_grad, returned_grad in (
        ("layers.0", a, b, grads[0], grads[1]),
        ("layers.1", b, c, grads[1], grads[2]),
    ):
        assert_positions(scope.trace, module, "input", given, 1)
        assert_positions(scope.trace, module, "output", returned, 1)
        assert_positions(scope.trace, module, "input_grad", given_grad, 1)
        assert_positions(scope.trace, module, "output_grad", returned_grad, 1)
    last = scope.trace.by_time("layers.1", "output_grad", "l2_norm")[0]
    assert (last[:-1] == 0).all()
    assert last[-1] > 0
    depth = {s.module: s.depth for s in scope.trace.sites if s.quantity == "input"}
    assert 0 < depth["layers.0"] < depth["layers.1"], "only the model's own input has depth 0"
    assert scope.trace.by_time("layers.0.linear1", "output", "rms").shape == (1, 1), "nobody asked"


@pytest.mark.parametrize("axis", [2, -1])
def test_temporal_convolutions(axis):
    torch.manual_seed(0)
    model = Convolutions()
    x = torch.randn(B, C, T, requires_grad=True)
    with gradscope.attach(model, time_axes={"": axis, "conv*": axis, "act": axis}) as scope:
        model(x).square().sum().backward()
    a = model.conv1(x)
    b = torch.relu(a)
    c = model.conv2(b)
    grads = torch.autograd.grad(c.square().sum(), [x, a, b, c])
    for module, given, returned in (("conv1", 0, 1), ("act", 1, 2), ("conv2", 2, 3), ("", 0, 3)):
        assert_positions(scope.trace, module, "input", (x, a, b, c)[given], 2)
        assert_positions(scope.trace, module, "output", (x, a, b, c)[returned], 2)
        assert_positions(scope.trace, module, "input_grad", grads[given], 2)
        assert_positions(scope.trace, module, "output_grad", grads[returned], 2)
    assert scope.trace.by_time("conv2", "output", "rms").shape == (1, T // 2)


def test_what_is_known_of_an_activation_is_known_with_positions_too():
    model = nn.Sequential(nn.Conv1d(C, 4, 1), nn.ReLU(), nn.Conv1d(4, 4, 1), nn.Sigmoid())
    with torch.no_grad():
        model[0].bias[0] = -1e3
        model[2].bias[:2] = 1e3
    scopes = []
    for axes in ({}, {"1": 2, "3": 2}):
        twin = copy.deepcopy(model)
        with gradscope.attach(twin, time_axes=axes) as scope:
            twin(torch.randn(B, C, T, generator=torch.Generator().manual_seed(0))).sum().backward()
        scopes.append(scope)
    plain, timed = (scope.trace for scope in scopes)
    assert timed.series("1", "output", "dead_fraction").tolist() == [0.25]
    for module, stat in (("1", "dead_fraction"), ("3", "saturated_fraction")):
        found = timed.series(module, "output", stat)
        assert found == pytest.approx(plain.series(module, "output", stat))
        assert found[0] >= 0.25


def test_a_tensor_without_the_axis_is_whole():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(C, C)

        def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            return self.fc(x) * scale, x.mean()

    model = nn.ModuleDict({"m": Scaled()})
    with gradscope.attach(model, time_axes={"m": 1}) as scope:
        model["m"](torch.randn(B, T, C), torch.tensor(2.0))[0].sum().backward()
    trace = scope.trace
    assert trace.by_time("m", "input", "mean").shape == (1, T)
    assert trace.by_time("m", "input", "mean", name="1").tolist() == [[2]]
    assert trace.by_time("m", "output", "mean").shape == (1, T)
    assert trace.by_time("m", "output", "numel", name="1").tolist() == [[1]]


def test_sequences_of_one_step_follow_each_other_and_may_differ_in_length():
    model = nn.ModuleDict({"conv": nn.Conv1d(C, 4, 1)})
    with gradscope.attach(model, time_axes={"conv": -1}, probes=[Activations(), Gradients()]) as scope:
        parts = [torch.randn(B, C, length) for length in (2, 5)]
        sum(model["conv"](part).square().sum() for part in parts).backward()
    y = torch.cat([model["conv"](part) for part in parts], 2).detach()
    assert scope.trace.by_time("conv", "output", "l2_norm")[0].tolist() == pytest.approx(y.norm(dim=(0, 1)).tolist())
    grads = scope.trace.by_time("conv", "output_grad", "l2_norm")[0].tolist()
    assert grads == pytest.approx((2 * y).norm(dim=(0, 1)).tolist())


def test_the_last_pattern_that_matches_counts():
    model = Convolutions()
    with gradscope.attach(model, time_axes={"*": 1, "conv2": -1}) as scope:
        model(torch.randn(B, C, T)).sum().backward()
    lengths = {m: scope.trace.by_time(m, "output", "rms").shape[1] for m in ("", "conv1", "act", "conv2")}
    assert lengths == {"": 4, "conv1": 5, "act": 5, "conv2": T // 2}


def test_a_recurrent_layer_knows_its_own_axis():
    model = nn.ModuleDict({"lstm": nn.LSTM(C, 4)})
    with gradscope.attach(model, time_axes={"lstm": 1}) as scope:
        model["lstm"](torch.randn(T, B, C))[0].sum().backward()
    assert scope.trace.by_time("lstm", "input", "rms").shape == (1, T)
    assert scope.trace.by_time("lstm", "output", "rms").shape == (1, T)


def test_training_with_time_axes_is_bit_identical():
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Encoder()
        model.layers[0].dropout.p = 0.3
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        scope = gradscope.attach(model, optimizer=optimizer, time_axes={"*": 1}) if watched else None
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        for step in range(4):
            optimizer.zero_grad()
            ids = torch.randint(20, (B, T), generator=torch.Generator().manual_seed(step))
            model(ids, mask).square().sum().backward()
            optimizer.step()
        if scope:
            assert not scope.trace.events
            assert len(scope.trace.steps) == 4
        return [*model.state_dict().values(), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))


def test_what_a_module_inside_is_given_is_not_the_data():
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (0 * x).log()

    model = nn.Sequential(nn.Linear(C, C), Log(), nn.Linear(C, C))
    with gradscope.attach(model, time_axes={"2": 1}) as scope:
        for _ in range(3):
            model(torch.randn(B, T, C)).sum().backward()
    (found,) = [finding for finding in scope.diagnose().findings if finding.code == "GS401"]
    assert found.module == "1"


MISTAKES = {
    "no such module": ({"encoder.*": 1}, r"`time_axes=\{'encoder\.\*': 1\}` matches no module of Convolutions; known"),
    "a misspelt one": ({"conv3": 1}, r"`time_axes=\{'conv3': 1\}` matches no module.*did you mean 'conv"),
    "no number": ({"conv1": "time"}, r"`time_axes=\{'conv1': 'time'\}`: an axis is a whole number"),
    "a half": ({"conv1": 1.5}, r"`time_axes=\{'conv1': 1\.5\}`: an axis is a whole number"),
    "true": ({"conv1": True}, r"`time_axes=\{'conv1': True\}`: an axis is a whole number"),
    "nothing": ({"conv1": None}, r"`time_axes=\{'conv1': None\}`: an axis is a whole number"),
    "no name": ({1: 1}, r"`time_axes=\{1: 1\}` matches no module"),
    "only an axis": (1, r"`time_axes=1` must give an axis for each name"),
}


@pytest.mark.parametrize(("axes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_a_sentence(axes, message):
    model = Convolutions()
    with pytest.raises(gradscope.GradscopeError, match=message):
        gradscope.attach(model, time_axes=axes)
    gradscope.attach(model).detach()


def test_an_axis_that_no_output_has_is_told_once():
    model = nn.Sequential(nn.Linear(C, C), nn.Linear(C, 2))
    with gradscope.attach(model, time_axes={"1": 3}) as scope:
        for _ in range(3):
            model(torch.randn(B, T, C)).sum().backward()
            scope.step()
    (event,) = scope.trace.events
    assert event.module == "1"
    assert event.message == (
        "the output of 1 of shape (3, 6, 2) has no axis 3, which `time_axes` names; it is recorded whole."
    )

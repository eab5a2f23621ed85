"""States, gates and state gradients of fused layers, held to an explicit loop in float64 (tests/unrolled.py)."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from unrolled import Unrolled

import gradscope
from gradscope.records import Quantity
from gradscope.trace import Trace

# torch says once that oneDNN has no projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

MODES = {
    "RNN_TANH": nn.RNN,
    "RNN_RELU": lambda *args, **more: nn.RNN(*args, nonlinearity="relu", **more),
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
}
THREE = ("RNN_TANH", "LSTM", "GRU")
OURS = (Quantity.STATE, Quantity.STATE_GRAD, Quantity.GATE)
EXACT = 1e-6  # of a float64 module: what is left is that a trace is float32
ROUNDED = 1e-5

Wanted = dict[tuple[str, str], Tensor]


class Model(nn.Module):
    """A recurrent layer that is called "rnn"."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x, hx=None):
        return self.rnn(x, hx)


def observed(trace: Trace, module: str, step: int = 0) -> set[tuple[str, str]]:
    return {
        (site.quantity.value, site.name)
        for index, site in enumerate(trace.sites)
        if site.module == module and site.quantity in OURS and trace.observed(index)[step]
    }


def assert_recorded(
    trace: Trace,
    wanted: Mapping[tuple[str, str], Tensor],
    *,
    module: str = "rnn",
    step: int = 0,
    rel: float,
    floor: float = 0.0,
    stats: Iterable[str] = ("rms", "l2_norm", "mean", "min", "max"),
) -> None:
    """The trace shows `wanted`, by quantity and name (time, batch, feature), and nothing else of that module.

    A mean, or a sum of two parts, that cancels is known to the precision of what was added up. `floor` adds to that a
    share of the largest value over all times.
    """
    assert observed(trace, module, step) == set(wanted)
    for (quantity, name), tensor in wanted.items():
        values = tensor.flatten(1).double().numpy()
        there = ~np.isnan(values)
        n = there.sum(1)
        parts = [
            part for (q, other), part in wanted.items() if q == quantity and other.split(".")[0] == name.split(".")[0]
        ]
        largest = np.max([_per_time(part)["abs_max"] for part in parts], axis=0)
        slack = rel * largest + floor * np.nanmax(largest)
        got = {s: _by_time(trace, module, quantity, s, name, step, len(values)) for s in ("numel", *stats)}
        want = _per_time(tensor)
        assert (np.nan_to_num(got["numel"]) == n).all(), (quantity, name, got["numel"], n)
        for stat in stats:
            off = np.abs(got[stat] - want[stat])
            more = slack * np.sqrt(n) if stat == "l2_norm" else slack
            assert (np.isnan(got[stat]) == (n == 0)).all(), (quantity, name, stat, got[stat])
            wrong = off[n > 0] > (rel * np.abs(want[stat]) + more + 1e-43)[n > 0]
            assert not wrong.any(), (quantity, name, stat, got[stat], want[stat])
        whole = trace.series(module, quantity, "rms", name=name)[step]
        assert whole == pytest.approx(
            np.sqrt(np.nansum(values**2) / n.sum()), rel=2 * rel, abs=np.nanmax(slack) + 1e-43
        )
        assert trace.series(module, quantity, "numel", name=name)[step] == n.sum()


def _by_time(trace: Trace, module: str, quantity: str, stat: str, name: str, step: int, length: int) -> np.ndarray:
    row = trace.by_time(module, quantity, stat, name=name)[step].astype(np.float64)
    assert np.isnan(row[length:]).all(), "nothing after the end"
    return np.concatenate([row[:length], np.full(max(length - len(row), 0), np.nan)])


def _per_time(tensor: Tensor) -> dict[str, np.ndarray]:
    values = tensor.flatten(1).double().numpy()
    with warnings.catch_warnings(action="ignore"):  # a time at which nothing runs
        squares = np.nansum(values**2, 1)
        return {
            "rms": np.sqrt(squares / (~np.isnan(values)).sum(1)),
            "l2_norm": np.sqrt(squares),
            "mean": np.nanmean(values, 1),
            "min": np.nanmin(values, 1),
            "max": np.nanmax(values, 1),
            "abs_max": np.nanmax(np.abs(values), 1),
        }


def silent(trace: Trace) -> bool:
    """Nothing happened to the recording itself."""
    return not trace.events


# -------------------------------------------------------------------- any options, any shape


@dataclass(frozen=True)
class Case:
    """A recurrent layer, what it is given, and what the loss reads."""

    mode: str = "LSTM"
    features: int = 3
    hidden: int = 4
    layers: int = 2
    bidirectional: bool = False
    batch_first: bool = False
    proj_size: int = 0
    bias: bool = True
    dropout: float = 0.0
    lengths: tuple[int, ...] = (5, 5)
    packing: str = "none"  # or "sorted", "unsorted"; "unbatched" for a single sequence
    initial: str = "default"  # or "given", "learned"
    reads: tuple[str, ...] = ("last",)  # of "last", "all", "h_n", "c_n"
    dtype: torch.dtype = torch.float64
    steps: int = 1
    seed: int = 0

    def layer(self) -> nn.RNNBase:
        options = {"proj_size": self.proj_size} if self.proj_size else {}
        return MODES[self.mode](
            self.features,
            self.hidden,
            self.layers,
            bias=self.bias,
            batch_first=self.batch_first,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            dtype=self.dtype,
            **options,
        )

    def inputs(self) -> tuple[Tensor, Tensor | PackedSequence]:
        """A leaf that wants a gradient, and what the layer is given of it."""
        length, batch = max(self.lengths), len(self.lengths)
        x = torch.randn(length, batch, self.features, dtype=self.dtype).requires_grad_()
        if self.packing == "unbatched":
            return x, x[:, 0]
        if self.packing == "none":
            return x, x.transpose(0, 1) if self.batch_first else x
        return x, pack_padded_sequence(x, list(self.lengths), enforce_sorted=self.packing == "sorted")

    def start(self) -> Tensor | tuple[Tensor, Tensor] | None:
        if self.initial == "default":
            return None
        directions = self.layers * (1 + self.bidirectional)
        batch = () if self.packing == "unbatched" else (len(self.lengths),)
        h, c = (
            torch.randn(directions, *batch, size, dtype=self.dtype, requires_grad=self.initial == "learned")
            for size in (self.proj_size or self.hidden, self.hidden)
        )
        return (h, c) if self.mode == "LSTM" else h

    def masks(self, x: Tensor | PackedSequence) -> list[Tensor]:
        """What dropout multiplies each layer's output by, from the state the random generator is in."""
        width = (self.proj_size or self.hidden) * (1 + self.bidirectional)
        rows = (len(x.data),) if isinstance(x, PackedSequence) else (max(self.lengths), len(self.lengths))
        masks = []
        for _ in range(self.layers - 1 if self.dropout else 0):
            mask = F.dropout(torch.ones(*rows, width, dtype=self.dtype), self.dropout)
            masks.append(pad_packed_sequence(x._replace(data=mask))[0] if isinstance(x, PackedSequence) else mask)
        return masks

    def loss(self, output: Tensor, h_n: Tensor, c_n: Tensor | None) -> Tensor:
        axis = 1 if self.batch_first and self.packing == "none" else 0
        last = output.select(axis, -1)
        read = {"last": last, "all": output, "h_n": h_n, "c_n": h_n if c_n is None else c_n}
        generator = torch.Generator().manual_seed(self.seed)
        parts = []
        for name in self.reads:
            y = read[name]
            weight = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
            parts.append((weight * y + y.square() / 2).sum())
        return torch.stack(parts).sum()


def parts_of(returned: tuple) -> tuple[Tensor, Tensor, Tensor | None]:
    """The output, padded if it was packed, h_n and c_n."""
    output, state = returned
    output = pad_packed_sequence(output)[0] if isinstance(output, PackedSequence) else output
    return output, *(state if isinstance(state, tuple) else (state, None))


def assert_exact(case: Case) -> None:
    """Trains for some steps; the loop computes what the layer computes, and the trace shows what the loop sees."""
    torch.manual_seed(case.seed)
    model = Model(case.layer())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    near = {"rtol": 1e-9, "atol": 1e-9} if case.dtype is torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    wanted = []
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for step in range(case.steps):
            leaf, x = case.inputs()
            hx = case.start()
            torch.manual_seed(case.seed + step)
            unrolled = Unrolled(model.rnn, x, hx, masks=case.masks(x))
            loss = case.loss(unrolled.output, unrolled.h_n, unrolled.c_n)
            wanted.append(unrolled.watched(loss))
            grads = torch.autograd.grad(loss, [unrolled.x, *unrolled.weights.values()], materialize_grads=True)

            torch.manual_seed(case.seed + step)
            returned = parts_of(model(x, hx))
            case.loss(*returned).backward()
            for mine, theirs in zip((unrolled.output, unrolled.h_n, unrolled.c_n), returned, strict=True):
                assert (mine is None) == (theirs is None)
                if theirs is not None:
                    torch.testing.assert_close(mine, theirs.double(), **near)
            fused = [leaf.grad, *(getattr(model.rnn, name).grad for name in unrolled.weights)]
            for mine, theirs in zip(grads, fused, strict=True):
                torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs.double(), **near)
            optimizer.step()
            optimizer.zero_grad()
    assert silent(scope.trace)
    for step, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=step, rel=EXACT if case.dtype is torch.float64 else ROUNDED)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    mode = draw(st.sampled_from(list(MODES)))
    hidden = draw(st.integers(1, 5))
    packing = draw(st.sampled_from(["none", "none", "sorted", "unsorted", "unbatched"]))
    batch = 1 if packing == "unbatched" else draw(st.integers(1, 4))
    lengths = [draw(st.integers(1, 6))] * batch
    if packing in ("sorted", "unsorted"):
        lengths = draw(st.lists(st.integers(1, 6), min_size=batch, max_size=batch))
    layers = draw(st.integers(1, 3))
    return Case(
        mode=mode,
        features=draw(st.integers(1, 4)),
        hidden=hidden,
        layers=layers,
        bidirectional=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden - 1)) if mode == "LSTM" else 0,
        bias=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.0, 0.4])) if layers > 1 else 0.0,
        lengths=tuple(sorted(lengths, reverse=True) if packing == "sorted" else lengths),
        packing=packing,
        initial=draw(st.sampled_from(["default", "given", "learned"])),
        reads=draw(st.sampled_from([("last",), ("all",), ("h_n",), ("c_n",), ("last", "h_n"), ("all", "h_n", "c_n")])),
        dtype=draw(st.sampled_from([torch.float64, torch.float32])),
        steps=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 999)),
    )


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_every_state_and_its_gradient_are_those_of_the_explicit_loop(case):
    assert_exact(case)


CASES = {
    "a single number": Case(features=1, hidden=1, layers=1, lengths=(1,), reads=("all",)),
    "one step": Case(lengths=(1, 1, 1), bidirectional=True, initial="learned", reads=("h_n", "c_n")),
    "packed, one step each": Case(lengths=(1, 1), packing="sorted"),
    "packed, one sequence": Case(mode="GRU", lengths=(4,), packing="sorted", reads=("all",)),
    "packed, unequal, both ways": Case(
        lengths=(2, 6, 1, 4), packing="unsorted", bidirectional=True, initial="learned", reads=("h_n", "c_n")
    ),
    "packed, batch first says nothing": Case(lengths=(3, 2), packing="unsorted", batch_first=True, reads=("all",)),
    "only the cell state is read": Case(reads=("c_n",), proj_size=2),
    "three layers, dropout, packed": Case(layers=3, dropout=0.5, lengths=(5, 3, 3), packing="sorted", reads=("all",)),
    "all is dropped": Case(dropout=1.0, reads=("all",)),
    "float32, long": Case(dtype=torch.float32, lengths=(60,) * 4, hidden=16, features=8, reads=("last",)),
    "float32, GRU, long": Case(mode="GRU", dtype=torch.float32, lengths=(60,) * 4, hidden=16, reads=("last",)),
    "float32, wide, dropout": Case(
        dtype=torch.float32, lengths=(12,) * 6, hidden=70, layers=3, dropout=0.2, bidirectional=True, reads=("all",)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_corners_too(case):
    assert_exact(case)


@pytest.mark.parametrize(("mode", "reads"), [*product(MODES, [("last",), ("all",), ("h_n",)])])
def test_layers_that_run_both_ways(mode, reads):
    assert_exact(Case(mode=mode, bidirectional=True, batch_first=True, reads=reads, dropout=0.3, lengths=(4,) * 3))


# -------------------------------------------------------------------- what it means, by name


def step_of(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def stat(trace: Trace, quantity: str, name: str, stat: str = "rms", module: str = "rnn", step: int = 0) -> list[float]:
    return trace.by_time(module, quantity, stat, name=name)[step].tolist()


def test_the_first_site_of_a_layer_is_its_hidden_state():
    model = Model(nn.LSTM(3, 4, 2, bidirectional=True))
    with gradscope.attach(model) as scope:
        model(torch.randn(5, 2, 3))[0].sum().backward()
    for quantity in ("state", "state_grad"):
        assert scope.trace.sites[scope.trace.column("rnn", quantity)].name == "h_l0"
    assert scope.trace.meta["recurrent"] == {"rnn": "LSTM"}


def test_nothing_is_carried_into_the_last_step():
    model = Model(nn.GRU(3, 4, bidirectional=True))
    with gradscope.attach(model) as scope:
        model(torch.randn(5, 2, 3))[0].square().sum().backward()
    assert stat(scope.trace, "state_grad", "h_l0.carried")[-1] == 0
    assert stat(scope.trace, "state_grad", "h_l0_reverse.carried")[0] == 0
    assert min(stat(scope.trace, "state_grad", "h_l0.carried")[:-1]) > 0


def test_a_loss_that_reads_the_last_step_has_no_local_part_before_it():
    model = Model(nn.LSTM(3, 4))
    with gradscope.attach(model) as scope:
        model(torch.randn(5, 2, 3))[0][-1].sum().backward()
    local = stat(scope.trace, "state_grad", "h_l0.local")
    assert local[:-1] == [0] * 4
    assert local[-1] == pytest.approx(1)


def test_the_layer_itself_may_be_the_model():
    torch.manual_seed(0)
    rnn = nn.LSTM(3, 4).double()
    x = torch.randn(5, 2, 3).double()
    with gradscope.attach(rnn) as scope:
        rnn(x)[0].square().sum().backward()
    unrolled = Unrolled(rnn, x)
    assert_recorded(scope.trace, unrolled.watched(unrolled.output.square().sum()), module="", rel=EXACT)


def test_layers_in_a_row_each_have_their_own():
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lower, self.upper = nn.GRU(3, 4), nn.RNN(4, 2)

        def forward(self, x):
            return self.upper(self.lower(x)[0])[1]

    model = Two().double()
    x = torch.randn(5, 2, 3).double()
    with gradscope.attach(model) as scope:
        model(x).square().sum().backward()
    lower = Unrolled(model.lower, x)
    upper = Unrolled(model.upper, lower.output)
    upper_sites = upper.watched(upper.h_n.square().sum())
    (grad,) = torch.autograd.grad(upper.h_n.square().sum(), upper.x)
    assert_recorded(scope.trace, upper_sites, module="upper", rel=EXACT)
    assert_recorded(scope.trace, lower.watched((lower.output * grad).sum()), module="lower", rel=EXACT)
    assert scope.trace.meta["recurrent"] == {"lower": "GRU", "upper": "RNN_TANH"}


def test_a_learned_initial_state_that_is_expanded_has_its_gradient():
    torch.manual_seed(0)

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4)
            self.h = nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x):
            return self.rnn(x, self.h.expand(-1, x.shape[1], -1))[0]

    model = Learned().double()
    x = torch.randn(5, 2, 3).double()
    with gradscope.attach(model) as scope:
        model(x).square().sum().backward()
    unrolled = Unrolled(model.rnn, x, model.h.expand(-1, 2, -1))
    assert_recorded(scope.trace, unrolled.watched(unrolled.output.square().sum()), rel=EXACT)


def test_gradients_of_a_scaled_loss_are_unscaled():
    torch.manual_seed(0)

    class Scaler:
        def get_scale(self) -> float:
            return 1024.0

    model = Model(nn.LSTM(3, 4).double())
    optimizer = sgd(model)
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    with gradscope.attach(model, optimizer=optimizer, scaler=Scaler()) as scope:
        step_of(model, 1024 * model(x)[0].square().sum(), optimizer)
    assert_recorded(scope.trace, unrolled.watched(unrolled.output.square().sum()), rel=EXACT)


# -------------------------------------------------------------------- several calls in one step


def joined(*runs: Wanted) -> Wanted:
    """One after the other in time; an initial state is at the first time of its run."""
    names = dict.fromkeys(name for run in runs for name in run)
    result = {}
    for key in names:
        parts = []
        for run in runs:
            length, width = run["state", "h_l0"].shape[0], run["state", "h_l0"].shape[1]
            tensor = run.get(key)
            if tensor is None:
                tensor = torch.full((0, width, 1), torch.nan, dtype=torch.float64)
            missing = torch.full((length - len(tensor), *tensor.shape[1:]), torch.nan, dtype=torch.float64)
            parts.append(torch.cat([tensor, missing]))
        size = max(part.shape[2] for part in parts)
        result[key] = torch.cat([F.pad(part, (0, size - part.shape[2]), value=torch.nan) for part in parts])
    return result


def numbers(loss_of, *runs: Unrolled) -> Wanted:
    loss = loss_of(runs)
    return joined(*(run.watched(loss) for run in runs))


@pytest.mark.parametrize("mode", THREE)
def test_independent_calls_follow_each_other_in_time(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    xs = [torch.randn(length, 2, 3).double() for length in (4, 6, 1)]
    with gradscope.attach(model) as scope:
        ys = [model.rnn(x)[0] for x in xs]
        sum(y.square().sum() for y in ys).backward()
    runs = [Unrolled(model.rnn, x) for x in xs]
    wanted = numbers(lambda runs: sum(run.output.square().sum() for run in runs), *runs)
    assert_recorded(scope.trace, wanted, rel=EXACT)
    starts = np.flatnonzero(~np.isnan(stat(scope.trace, "state", "h0_l0")))
    assert starts.tolist() == [0, 4, 10]


@pytest.mark.parametrize("mode", THREE)
def test_windows_that_are_chained_are_one_sequence(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    x = torch.randn(9, 2, 3).double()
    with gradscope.attach(model) as scope:
        hx, loss = None, 0.0
        for window in x.split(3):
            y, hx = model.rnn(window, hx)
            loss = loss + y[-1].square().sum()
        loss.backward()
    unrolled = Unrolled(model.rnn, x)
    assert_recorded(scope.trace, unrolled.watched(unrolled.output[2::3].square().sum()), rel=EXACT)


@pytest.mark.parametrize("mode", THREE)
def test_a_detached_window_begins_with_a_state_but_hands_no_gradient_on(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4).double())
    first, second = torch.randn(4, 2, 3).double(), torch.randn(3, 2, 3).double()
    with gradscope.attach(model) as scope:
        y, hx = model.rnn(first)
        hx = tuple(h.detach() for h in hx) if isinstance(hx, tuple) else hx.detach()
        z, _ = model.rnn(second, hx)
        (y.square().sum() + z.square().sum()).backward()
    one, two = Unrolled(model.rnn, first), Unrolled(model.rnn, second, hx)
    wanted = numbers(lambda runs: sum(run.output.square().sum() for run in runs), one, two)
    assert_recorded(scope.trace, wanted, rel=EXACT)
    start = stat(scope.trace, "state", "h0_l0")
    assert start[0] == 0
    assert start[4] > 0
    assert ("state_grad", "h0_l0") not in observed(scope.trace, "rnn")


def test_a_state_that_was_changed_on_the_way_is_a_start_with_a_gradient():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    first, second = torch.randn(4, 2, 3).double(), torch.randn(3, 2, 3).double()
    with gradscope.attach(model) as scope:
        _, h = model.rnn(first)
        model.rnn(second, 0.5 * h)[0].square().sum().backward()
    one = Unrolled(model.rnn, first)
    two = Unrolled(model.rnn, second, 0.5 * model.rnn(first)[1])
    two_sites = two.watched(two.output.square().sum())
    (grad,) = torch.autograd.grad(two.output.square().sum(), two.hx)
    assert_recorded(scope.trace, joined(one.watched((0.5 * one.h_n * grad).sum()), two_sites), rel=EXACT)


def test_windows_that_each_have_their_backward():
    """Truncated backpropagation with a backward per window: every part is of its own window's loss."""
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4).double())
    optimizer = sgd(model)
    windows = torch.randn(9, 2, 3).double().split(3)
    runs, hx = [], None
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for x in windows:
            run = Unrolled(model.rnn, x, hx)
            runs.append(run.watched(run.output.square().sum()))
            y, hx = model.rnn(x, hx)
            y.square().sum().backward()
            hx = tuple(h.detach() for h in hx)
        optimizer.step()
    assert_recorded(scope.trace, joined(*runs), rel=EXACT)


def test_a_window_a_step_has_its_initial_state_and_its_cut():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2).double())
    optimizer = sgd(model)
    wanted, hx = [], None
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for x in torch.randn(9, 2, 3).double().split(3):
            run = Unrolled(model.rnn, x, hx)
            wanted.append(run.watched(run.output.square().sum()))
            y, hx = model(x, hx)
            step_of(model, y.square().sum(), optimizer)
            hx = tuple(h.detach() for h in hx)
    for step, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=step, rel=EXACT)
    assert (stat(scope.trace, "state", "h0_l1", step=0)[0], stat(scope.trace, "state", "h0_l1", step=1)[0] > 0) == (
        0,
        True,
    )

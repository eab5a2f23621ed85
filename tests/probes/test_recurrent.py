"""States, gates and state gradients of fused layers, held to an explicit loop in float64 (tests/unrolled.py)."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from unrolled import Unrolled

import gradscope
from gradscope.probes import Recurrent
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


def squares(y: Tensor) -> Tensor:
    return y.square().sum()


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
    # in float32 a step whose parts cancel is known to the precision of its neighbours
    precision = {"rel": EXACT} if case.dtype is torch.float64 else {"rel": ROUNDED, "floor": 1e-6}
    for step, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=step, **precision)


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


@settings(deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
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


def step_of(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
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
        step_of(1024 * model(x)[0].square().sum(), optimizer)
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


def together(runs: Sequence[Unrolled], loss_of: Callable[[Unrolled], Tensor]) -> Wanted:
    """What independent calls have to show, the loss being the sum over them."""
    return joined(*(run.watched(loss_of(run)) for run in runs))


@pytest.mark.parametrize("mode", THREE)
def test_independent_calls_follow_each_other_in_time(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    xs = [torch.randn(length, 2, 3).double() for length in (4, 6, 1)]
    with gradscope.attach(model) as scope:
        ys = [model.rnn(x)[0] for x in xs]
        sum(y.square().sum() for y in ys).backward()
    runs = [Unrolled(model.rnn, x) for x in xs]
    assert_recorded(scope.trace, together(runs, lambda run: squares(run.output)), rel=EXACT)
    starts = np.flatnonzero(~np.isnan(stat(scope.trace, "state", "h0_l0")))
    assert starts.tolist() == [0, 4, 10]


@pytest.mark.parametrize(("mode", "window"), [*product(THREE, [3, 1])])
def test_windows_that_are_chained_are_one_sequence(mode, window):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    x = torch.randn(9, 2, 3).double()
    with gradscope.attach(model) as scope:
        hx, loss = None, 0.0
        for part in x.split(window):
            y, hx = model.rnn(part, hx)
            loss = loss + squares(y[-1])
        loss.backward()
    unrolled = Unrolled(model.rnn, x)
    assert silent(scope.trace)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output[window - 1 :: window])), rel=EXACT)


def continued(one: Unrolled, two: Unrolled, ends: Sequence[int], loss_of: Callable[[Unrolled], Tensor]) -> Wanted:
    """Two calls that are one sequence, of which the first one's row b is over after `ends[b]` steps."""
    later = two.watched(loss_of(two))
    back = torch.autograd.grad(loss_of(two), two.hx, retain_graph=True)
    finals = (one.h_n, one.c_n)[: len(back)]
    earlier = one.watched(loss_of(one) + sum((end * grad).sum() for end, grad in zip(finals, back, strict=True)))
    for state, grad in zip(one.states, back, strict=True):
        for k, suffix in enumerate(one.suffixes):
            carried = earlier["state_grad", f"{state}_{suffix}.carried"]
            for row, length in enumerate(ends):
                carried[length - 1, row] = grad[k, row]
            earlier["state_grad", f"{state}_{suffix}.local"] = earlier["state_grad", f"{state}_{suffix}"] - carried
            for start in ("state", "state_grad"):
                later.pop((start, f"{state}0_{suffix}"))
    return joined(earlier, later)


@pytest.mark.parametrize("mode", THREE)
@pytest.mark.parametrize("sorted_", [True, False])
def test_packed_windows_are_chained_each_at_its_own_end(mode, sorted_):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    lengths = [[4, 2, 1], [3, 3, 2]] if sorted_ else [[1, 4, 2], [3, 2, 3]]
    xs = [pack_padded_sequence(torch.randn(max(n), 3, 3).double(), n, enforce_sorted=sorted_) for n in lengths]
    with gradscope.attach(model) as scope:
        y, hx = model.rnn(xs[0])
        z, _ = model.rnn(xs[1], hx)
        (squares(y.data) + squares(z.data)).backward()
    one, two = Unrolled(model.rnn, xs[0]), Unrolled(model.rnn, xs[1], hx)
    assert silent(scope.trace)
    assert_recorded(scope.trace, continued(one, two, lengths[0], lambda run: squares(run.output)), rel=EXACT)


@pytest.mark.parametrize("mode", THREE)
def test_what_the_loss_reads_of_the_state_between_two_windows_is_local(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    xs = torch.randn(2, 5, 2, 3).double()
    with gradscope.attach(model) as scope:
        _, hx = model.rnn(xs[0])
        _, end = model.rnn(xs[1], hx)
        states = [h[0] if isinstance(h, tuple) else h for h in (hx, end)]
        (squares(states[0]) + squares(states[1])).backward()
    one, two = Unrolled(model.rnn, xs[0]), Unrolled(model.rnn, xs[1], hx)
    assert silent(scope.trace)
    assert_recorded(scope.trace, continued(one, two, [5, 5], lambda run: squares(run.h_n)), rel=EXACT)


@pytest.mark.parametrize("mode", THREE)
def test_a_state_that_two_calls_go_on_from_is_carried_back_by_the_next_one(mode):
    """The second continuation is not of the call before it, so it is a start that hands its gradient on."""
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4).double())
    xs = torch.randn(3, 5, 2, 3).double()
    with gradscope.attach(model) as scope:
        _, hx = model.rnn(xs[0])
        y, _ = model.rnn(xs[1], hx)
        z, _ = model.rnn(xs[2], hx)
        (squares(y) + squares(z)).backward()
    one, two, three = Unrolled(model.rnn, xs[0]), Unrolled(model.rnn, xs[1], hx), Unrolled(model.rnn, xs[2], hx)
    fork = three.watched(squares(three.output))
    back = torch.autograd.grad(squares(three.output), three.hx)
    ends = (one.h_n, one.c_n)[: len(back)]
    trunk = continued(
        one,
        two,
        [5, 5],
        lambda run: (
            squares(run.output) if run is two else sum((end * grad).sum() for end, grad in zip(ends, back, strict=True))
        ),
    )
    assert silent(scope.trace)
    assert_recorded(scope.trace, joined(trunk, fork), rel=EXACT)


def test_a_window_that_no_loss_reads_carries_nothing_back():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    xs = torch.randn(2, 5, 2, 3).double()
    with gradscope.attach(model) as scope:
        y, h = model.rnn(xs[0])
        model.rnn(xs[1], h)
        squares(y).backward()
    one = Unrolled(model.rnn, xs[0])
    wanted = one.watched(squares(one.output))
    for name in ("h_l0", "h_l0.local", "h_l0.carried"):
        want = _per_time(wanted["state_grad", name])["rms"]
        assert stat(scope.trace, "state_grad", name)[:5] == pytest.approx(want, rel=EXACT)


def test_windows_that_are_chained_both_ways_have_their_whole_gradients():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4, bidirectional=True).double())
    xs = torch.randn(2, 3, 2, 3).double()
    with gradscope.attach(model) as scope:
        y, h = model.rnn(xs[0])
        z, _ = model.rnn(xs[1], h)
        (squares(y) + squares(z)).backward()
    one, two = Unrolled(model.rnn, xs[0]), Unrolled(model.rnn, xs[1], h)
    (back,) = torch.autograd.grad(squares(two.output), two.hx, retain_graph=True)
    runs = joined(one.watched(squares(one.output) + (one.h_n * back).sum()), two.watched(squares(two.output)))
    for name in ("h_l0", "h_l0_reverse"):
        want = _per_time(runs["state_grad", name])["rms"]
        assert stat(scope.trace, "state_grad", name) == pytest.approx(want, rel=EXACT)


@pytest.mark.parametrize("mode", THREE)
def test_calls_that_each_have_their_backward_later(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    optimizer = sgd(model)
    xs = torch.randn(3, 5, 2, 3).double()
    runs = [Unrolled(model.rnn, x) for x in xs]
    with gradscope.attach(model, optimizer=optimizer) as scope:
        ys = [model(x)[0] for x in xs]
        for y in ys[::-1]:
            squares(y).backward()
        optimizer.step()
    assert silent(scope.trace)
    assert_recorded(scope.trace, together(runs, lambda run: squares(run.output)), rel=EXACT)


def test_weights_that_move_within_a_step_are_those_of_each_pass():
    """LBFGS calls forward and backward several times a step, with other weights each time."""
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    x, runs = torch.randn(5, 2, 3).double(), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        runs.append(Unrolled(model.rnn, x))
        loss = squares(model(x)[0] - 0.3)
        loss.backward()
        return loss

    with gradscope.attach(model, optimizer=optimizer) as scope:
        optimizer.step(closure)
    assert len(runs) > 1
    assert_recorded(scope.trace, together(runs, lambda run: squares(run.output - 0.3)), rel=EXACT)


def test_weights_may_be_moved_by_hand():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4).double())
    wanted = []
    with gradscope.attach(model) as scope:
        for _ in range(3):
            x = torch.randn(5, 2, 3).double()
            unrolled = Unrolled(model.rnn, x)
            wanted.append(unrolled.watched(squares(unrolled.output)))
            squares(model(x)[0]).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.5 * p.grad
                    p.grad = None
    for step, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=step, rel=EXACT)


def test_only_one_of_the_two_states_may_want_a_gradient():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4).double())
    x, h, c = torch.randn(5, 2, 3).double(), torch.randn(1, 2, 4).double(), torch.randn(1, 2, 4).double()
    c.requires_grad_()
    unrolled = Unrolled(model.rnn, x, (h, c))
    with gradscope.attach(model) as scope:
        squares(model(x, (h, c))[0]).backward()
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_arguments_may_be_given_by_name():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    x, h = torch.randn(5, 2, 3).double(), torch.randn(1, 2, 4).double()
    unrolled = Unrolled(model.rnn, x, h)
    with gradscope.attach(model) as scope:
        squares(model.rnn(hx=h, input=x)[0]).backward()
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


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
    runs = [Unrolled(model.rnn, first), Unrolled(model.rnn, second, hx)]
    assert_recorded(scope.trace, together(runs, lambda run: squares(run.output)), rel=EXACT)
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


def test_a_state_that_was_changed_in_place_on_the_way_is_a_start():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    first, second = torch.randn(4, 2, 3).double(), torch.randn(3, 2, 3).double()
    with gradscope.attach(model) as scope:
        _, h = model.rnn(first)
        h[:, 0] = 0
        squares(model.rnn(second, h)[0]).backward()
    one = Unrolled(model.rnn, first)
    two = Unrolled(model.rnn, second, h)
    later = two.watched(squares(two.output))
    (grad,) = torch.autograd.grad(squares(two.output), two.hx)
    earlier = one.watched((one.h_n[:, 1] * grad[:, 1]).sum())
    assert_recorded(scope.trace, joined(earlier, later), rel=EXACT)


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
            step_of(y.square().sum(), optimizer)
            hx = tuple(h.detach() for h in hx)
    for step, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=step, rel=EXACT)
    assert (stat(scope.trace, "state", "h0_l1", step=0)[0], stat(scope.trace, "state", "h0_l1", step=1)[0] > 0) == (
        0,
        True,
    )


# -------------------------------------------------------------------- watching does no harm


def graph(tensor: Tensor) -> list[str]:
    """The names of all nodes of autograd's graph, in the order of a walk."""
    names, waiting, known = [], [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            names.append(node.name())
            waiting += [after for after, _ in node.next_functions]
    return names


def trained(mode: str, every: int | None, dtype: torch.dtype = torch.float32) -> list[object]:
    """Five steps; everything that a probe could have disturbed. Without `every`, nothing is attached."""
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 8, 2, bidirectional=True, dropout=0.3, batch_first=True, dtype=dtype))
    head = nn.Linear(16, 2, dtype=dtype)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.01)
    scope = None if every is None else gradscope.attach(model, optimizer=optimizer, every=every)
    results: list[object] = []
    for step in range(5):
        x = torch.randn(4, 6, 3, dtype=dtype).requires_grad_()
        output, state = model(x)
        h = state[0] if isinstance(state, tuple) else state
        results += [type(output), type(output.grad_fn), graph(output), graph(h)]
        loss = head(output).square().mean() + h.mean()
        if step == 2:
            torch.rand(3)
        loss.backward()
        results += [output.detach(), h.detach(), loss.detach(), x.grad]
        results += [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
        results += [p.detach().clone() for p in model.parameters()]
        results += [torch.get_rng_state(), torch.rand(1)]
    if scope is not None:
        scope.detach()
        assert silent(scope.trace)
        assert ("state_grad", "h_l1_reverse.carried") in observed(scope.trace, "rnn", -1)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), "no hook is left"
    return results


@pytest.mark.parametrize("mode", MODES)
def test_training_is_bit_equal_and_by_the_same_kernels(mode):
    bare = trained(mode, None)
    for every in (1, 3):
        watched = trained(mode, every)
        assert len(bare) == len(watched)
        for a, b in zip(bare, watched, strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_bit_equal_in_sixteen_bits():
    for a, b in zip(trained("LSTM", None, torch.bfloat16), trained("LSTM", 1, torch.bfloat16), strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_the_same_call_reaches_the_kernel(monkeypatch):
    calls = []
    kernel = torch._VF.lstm

    def counting(*args):
        calls.append(args[0].shape)
        return kernel(*args)

    monkeypatch.setattr(torch._VF, "lstm", counting, raising=False)
    monkeypatch.setattr(nn.modules.rnn._VF, "lstm", counting, raising=False)
    model = Model(nn.LSTM(3, 4))
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer):
        step_of(model(torch.randn(5, 2, 3))[0].sum(), optimizer)
    assert calls == [torch.Size([5, 2, 3])]


# -------------------------------------------------------------------- precision


def test_a_bfloat16_layer_is_near_the_loop_with_its_weights():
    for mode, layers in product(MODES, (1, 2)):
        case = Case(mode=mode, features=8, hidden=16, layers=layers, lengths=(8,) * 4, reads=("all",))
        torch.manual_seed(0)
        model = Model(case.layer()).bfloat16()
        x = torch.randn(8, 4, 8).bfloat16()
        unrolled = Unrolled(model.rnn, x)
        with gradscope.attach(model) as scope:
            case.loss(*parts_of(model(x))).backward()
        assert silent(scope.trace)
        wanted = unrolled.watched(case.loss(unrolled.output, unrolled.h_n, unrolled.c_n))
        assert_recorded(scope.trace, wanted, rel=0.04, floor=0.02, stats=("rms", "l2_norm"))
        for name in ("state", "state_grad", "gate"):
            for index in scope.trace.columns(name, "rnn"):
                assert scope.trace.statistics["nonfinite_count"][0, index] == 0


@pytest.mark.parametrize("mode", THREE)
def test_under_autocast_the_numbers_are_near(mode):
    case = Case(mode=mode, features=8, hidden=16, lengths=(8,) * 4, reads=("all",), dtype=torch.float32)
    torch.manual_seed(0)
    model = Model(case.layer())
    x = torch.randn(8, 4, 8)
    unrolled = Unrolled(model.rnn, x)
    with gradscope.attach(model) as scope:
        with torch.autocast("cpu", torch.bfloat16):
            returned = parts_of(model(x))
        case.loss(*returned).backward()
    assert silent(scope.trace)
    wanted = unrolled.watched(case.loss(unrolled.output, unrolled.h_n, unrolled.c_n))
    assert_recorded(scope.trace, wanted, rel=0.04, floor=0.02, stats=("rms", "l2_norm"))


def test_a_layer_kept_out_of_autocast_is_exact_though_the_backward_runs_inside():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 16, 2))
    x = torch.randn(5, 2, 3)
    unrolled = Unrolled(model.rnn, x)
    with gradscope.attach(model) as scope, torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            y, _ = model(x)
        squares(y).backward()
    assert silent(scope.trace)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=ROUNDED)


def test_half_precision_is_finite_and_near():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 16, 2)).half()
    x = torch.randn(5, 2, 3).half()
    unrolled = Unrolled(model.rnn, x)
    with gradscope.attach(model) as scope:
        squares(model(x)[0]).backward()
    assert silent(scope.trace)
    wanted = unrolled.watched(squares(unrolled.output))
    assert_recorded(scope.trace, wanted, rel=0.01, floor=0.005, stats=("rms", "l2_norm"))


@pytest.mark.parametrize("what", ["default dtype", "deterministic", "anomalies"])
def test_settings_of_torch_change_nothing(what):
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2, dropout=0.5, bidirectional=True))
    case = Case(dropout=0.5, bidirectional=True, dtype=torch.float32)
    x = torch.randn(5, 2, 3)
    torch.manual_seed(1)
    unrolled = Unrolled(model.rnn, x, masks=case.masks(x))
    torch.manual_seed(1)
    try:
        if what == "default dtype":
            torch.set_default_dtype(torch.float64)
        elif what == "deterministic":
            torch.use_deterministic_algorithms(True)
        with torch.autograd.set_detect_anomaly(what == "anomalies"), gradscope.attach(model) as scope:
            squares(model(x)[0]).backward()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert silent(scope.trace)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=ROUNDED)


# -------------------------------------------------------------------- what people do around a layer


def watched_once(model: nn.Module, x: Tensor, loss_of, read=lambda y: y) -> Trace:
    """One step with an optimizer, of `loss_of(read(output))`."""
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        step_of(loss_of(read(model(x))), optimizer)
    assert silent(scope.trace)
    return scope.trace


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_the_output_may_be_changed_in_place(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)

    def read(returned):
        y, _ = returned
        y.mul_(3)
        y[1].zero_()
        return y.relu_()

    trace = watched_once(model, x, squares, read)
    kept = torch.ones(5, 1, 1)
    kept[1] = 0
    wanted = unrolled.watched(squares(torch.relu(3 * unrolled.output * kept)))
    assert_recorded(trace, wanted, rel=EXACT)


def test_an_input_that_was_overwritten_is_told_and_not_used():
    model = Model(nn.GRU(3, 4))
    model.requires_grad_(False)  # no gradient of a weight needs the input, so autograd lets it be overwritten
    model.rnn.bias_ih_l0.requires_grad_()
    x = torch.randn(5, 2, 3)
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        loss = squares(model(x)[0])
        x.zero_()
        step_of(loss, optimizer)
    assert [(event.kind, event.module) for event in scope.trace.events] == [("not-observed", "rnn")]
    assert not observed(scope.trace, "rnn")


def test_weights_are_those_of_before_the_step():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        step_of(squares(model(x)[0]), optimizer)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
@pytest.mark.parametrize("which", ["output", "h_n"])
def test_a_gradient_that_the_user_changes_on_its_way_is_the_changed_one(mode, which):
    """Clipping the gradient of a state by a hook is an old recipe: what goes on into the layer is what is left."""
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 4, 2).double())
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        y, h_n, _ = parts_of(model(x))
        (y if which == "output" else h_n).register_hook(lambda grad: 0.01 * grad)
        step_of(squares(y) + squares(h_n), optimizer)
    scale = (0.01, 1) if which == "output" else (1, 0.01)
    wanted = unrolled.watched(scale[0] * squares(unrolled.output) + scale[1] * squares(unrolled.h_n))
    assert_recorded(scope.trace, wanted, rel=EXACT)


def test_numbers_that_are_not_finite_are_counted():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4))
    x = torch.randn(5, 2, 3)
    x[3, 0] = torch.nan
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        step_of(squares(model(x)[0]), optimizer)
    assert silent(scope.trace)
    assert stat(scope.trace, "state", "h_l0", "nonfinite_count") == [0, 0, 0, 4, 4]
    assert stat(scope.trace, "state_grad", "h_l0", "nonfinite_count")[0] == 4
    assert np.isfinite(stat(scope.trace, "state_grad", "h_l0")).all(), "over the other sequence"


def test_every_third_step_is_as_exact():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2).double())
    optimizer = sgd(model)
    wanted = []
    with gradscope.attach(model, optimizer=optimizer, every=3) as scope:
        for step in range(7):
            x = torch.randn(5, 2, 3).double()
            unrolled = Unrolled(model.rnn, x)
            if step % 3 == 0:
                wanted.append(unrolled.watched(squares(unrolled.output)))
            step_of(squares(model(x)[0]), optimizer)
    for record, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=record, rel=EXACT)


def test_sequences_may_have_another_length_at_each_step():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4).double())
    optimizer = sgd(model)
    wanted = []
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for length in (5, 2, 1, 7):
            x = torch.randn(length, 2, 3).double()
            unrolled = Unrolled(model.rnn, x)
            wanted.append(unrolled.watched(squares(unrolled.output)))
            step_of(squares(model(x)[0]), optimizer)
    for step, sites in enumerate(wanted):
        assert_recorded(scope.trace, sites, step=step, rel=EXACT)


def test_strides_do_not_matter():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4, batch_first=True).double())
    x, h = torch.randn(1, 1, 3).double().expand(2, 5, 3), torch.randn(2, 1, 4).double().transpose(0, 1)
    unrolled = Unrolled(model.rnn, x, h)
    with gradscope.attach(model) as scope:
        squares(model(x, h)[0]).backward()
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_a_layer_that_is_given_its_own_output():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 3).double())
    x = torch.randn(4, 2, 3).double()
    with gradscope.attach(model) as scope:
        y, _ = model.rnn(x)
        squares(model.rnn(y)[0]).backward()
    one = Unrolled(model.rnn, x)
    two = Unrolled(model.rnn, one.output)
    upper = two.watched(squares(two.output))
    (grad,) = torch.autograd.grad(squares(two.output), two.x)
    assert_recorded(scope.trace, joined(one.watched((one.output * grad).sum()), upper), rel=EXACT)


def test_a_second_backward_through_the_same_graph_counts_alone():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2).double())
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        y, _ = model(x)
        squares(y).backward(retain_graph=True)
        y[-1].sum().backward()
        optimizer.step()
    assert [event.kind for event in scope.trace.events] == ["several-backwards"]
    assert_recorded(scope.trace, unrolled.watched(unrolled.output[-1].sum()), rel=EXACT)


def test_a_backward_that_overlaps_the_one_before_counts_alone():
    """Truncated backpropagation that goes further back than it steps."""
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    xs = torch.randn(2, 4, 2, 3).double()
    one = Unrolled(model.rnn, xs[0])
    two = Unrolled(model.rnn, xs[1], model.rnn(xs[0])[1])
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        y, h = model.rnn(xs[0])
        squares(y).backward(retain_graph=True)
        z, _ = model.rnn(xs[1], h)
        squares(z).backward()
        optimizer.step()
    wanted = continued(one, two, [4, 4], lambda run: (run is two) * squares(run.output))
    assert [event.kind for event in scope.trace.events] == ["several-backwards"]
    assert_recorded(scope.trace, wanted, rel=EXACT)


def test_a_gradient_of_the_gradient_can_be_had():
    def run(watch: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Model(nn.GRU(3, 4).double())
        x = torch.randn(5, 2, 3).double().requires_grad_()
        optimizer = sgd(model)
        scope = gradscope.attach(model, optimizer=optimizer) if watch else None
        for _ in range(2):
            (grad,) = torch.autograd.grad(squares(model(x)[0]), x, create_graph=True)
            step_of(squares(model(x)[0]) + squares(grad), optimizer)
        if scope is not None:
            scope.detach()
            assert not [event for event in scope.trace.events if event.kind == "probe-failed"]
        return [p.detach() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "with gradients"])
def test_an_evaluation_between_leaves_no_trace(grad):
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2).double())
    x, other = torch.randn(5, 2, 3).double(), torch.randn(9, 3, 3).double()
    unrolled = Unrolled(model.rnn, x)
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        loss = squares(model(x)[0])
        loss.backward()
        model.eval()
        with torch.set_grad_enabled(grad):
            model(other)
        model.train()
        optimizer.step()
    assert silent(scope.trace)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_an_evaluation_before_the_training_pass_leaves_no_trace():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4).double())
    x, other = torch.randn(5, 2, 3).double(), torch.randn(9, 3, 3).double()
    unrolled = Unrolled(model.rnn, x)
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        with torch.no_grad():
            model(other)
        step_of(squares(model(x)[0]), optimizer)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_a_frozen_layer_has_states_and_their_gradients():
    torch.manual_seed(0)

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.rnn = nn.Linear(3, 3), nn.LSTM(3, 4, 2)
            self.rnn.requires_grad_(False)

        def forward(self, x):
            return self.rnn(self.project(x))[0]

    model = Frozen().double()
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, model.project(x))
    trace = watched_once(model, x, squares)
    assert_recorded(trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_where_no_gradient_comes_none_is_observed():
    torch.manual_seed(0)

    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.rnn(x)[0].detach())

    trace = watched_once(Unread().double(), torch.randn(5, 2, 3).double(), squares)
    assert "state_grad" not in {quantity for quantity, _ in observed(trace, "rnn")}


def test_normalised_weights_are_seen_as_they_are_used():
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # the older way, that many recipes still have
        rnn = nn.utils.weight_norm(nn.LSTM(3, 4).double(), "weight_hh_l0")
    with torch.no_grad():
        rnn.weight_hh_l0_g.mul_(1.7)
    model = Model(rnn)
    x = torch.randn(5, 2, 3).double()
    rnn(x)
    unrolled = Unrolled(rnn, x)
    assert not torch.equal(unrolled.weights["weight_hh_l0"], rnn.weight_hh_l0_v)
    trace = watched_once(model, x, squares, lambda returned: returned[0])
    assert_recorded(trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_parametrized_weights_are_seen_as_they_are_used():
    torch.manual_seed(0)
    model = Model(parametrizations.weight_norm(nn.GRU(3, 4).double(), "weight_hh_l0"))
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    torch.testing.assert_close(unrolled.output, model(x)[0])
    trace = watched_once(model, x, squares, lambda returned: returned[0])
    assert_recorded(trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


@pytest.mark.parametrize(("factor", "kind"), [(1.1, "approximate"), (20.0, "not-observed")])
def test_a_subclass_that_does_more_is_told_and_what_is_wrong_is_left_out(factor, kind):
    class Louder(nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(factor * x, hx)

    torch.manual_seed(0)
    model = Model(Louder(3, 4))
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(3):
            step_of(squares(model(torch.randn(5, 2, 3))[0]), optimizer)
    assert [(event.kind, event.module) for event in scope.trace.events] == [(kind, "rnn")], "once"
    seen = scope.trace.statistics["numel"][:, scope.trace.column("rnn", "state_grad", "h_l0")]
    assert np.isnan(seen).all() == (kind == "not-observed")


class Lengths(nn.LSTM):
    def forward(self, x, lengths):
        return super().forward(x)


class Listed(nn.GRU):
    def forward(self, xs):
        return super().forward(xs[0])


@pytest.mark.parametrize(
    ("odd", "given"), [(Lengths, (torch.randn(5, 2, 3), torch.tensor([5, 4]))), (Listed, ([torch.randn(5, 2, 3)],))]
)
def test_a_subclass_with_a_signature_of_its_own_is_told_and_disturbs_no_other_layer(odd, given):
    model = nn.ModuleDict({"odd": odd(3, 4), "usual": nn.GRU(4, 4)})
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        step_of(squares(model["usual"](model["odd"](*given)[0])[0]), optimizer)
    assert [(event.kind, event.module) for event in scope.trace.events] == [("not-observed", "odd")]
    assert scope.trace.by_time("usual", "state_grad", "rms").shape == (1, 5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_parametrization_with_a_state_or_chance_of_its_own_is_not_run_again(kind):
    class Drop(nn.Module):
        def forward(self, weight):
            return nn.functional.dropout(weight, 0.5, self.training)

    def trained(watch):
        torch.manual_seed(0)
        rnn = parametrizations.spectral_norm(getattr(nn, kind)(3, 4), "weight_hh_l0")
        nn.utils.parametrize.register_parametrization(rnn, "weight_ih_l0", Drop(), unsafe=True)
        model = Model(rnn)
        optimizer = sgd(model)
        scope = gradscope.attach(model, optimizer=optimizer) if watch else None
        for _ in range(4):
            step_of(squares(model(torch.randn(5, 2, 3))[0]), optimizer)
        assert scope is None or not scope.trace.events
        return [*model.state_dict().values(), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_an_output_that_is_a_view_may_be_changed_in_place(mode, batch_first, batched):
    torch.manual_seed(0)
    model = Model(getattr(nn, mode)(3, 4, batch_first=batch_first)).double()  # float32's LSTM refuses it
    x = torch.randn(5, 2, 3).double() if batched else torch.randn(5, 3).double()
    traces = []
    for in_place in (True, False):
        with gradscope.attach(model) as scope:
            y, ends = model(x)
            end = ends[0] if mode == "LSTM" else ends
            y = y.mul_(2) if in_place else y * 2
            (squares(y) + squares(end)).backward()
            scope.step()
        traces.append(scope.trace.by_time("rnn", "state_grad", "l2_norm"))
    np.testing.assert_allclose(traces[0], traces[1], rtol=1e-5)
    assert traces[0].shape == (1, 2 if batched and batch_first else 5)


def test_an_optimizer_inside_of_the_backward_is_told():
    torch.manual_seed(0)
    model = Model(nn.GRU(3, 4))
    for parameter in model.parameters():
        own = torch.optim.SGD([parameter], lr=1e-4)
        parameter.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
    with gradscope.attach(model) as scope:
        squares(model(torch.randn(5, 2, 3))[0]).backward()
        scope.step()
    (event,) = scope.trace.events
    assert event.kind == "approximate"
    assert "moved before the backward was over" in event.message


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4), lambda: nn.LSTMCell(3, 4)], ids=["fused", "cell"])
def test_a_model_that_keeps_its_state_is_freed(make):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.kept = make(), None

        def forward(self, x):
            self.kept = self.inner(x)
            return self.kept[0]

    model = Keeps()
    scope = gradscope.attach(model)
    squares(model(torch.randn(2, 3) if isinstance(model.inner, nn.LSTMCell) else torch.randn(5, 2, 3))).backward()
    scope.detach()
    gone = weakref.ref(model)
    del model, scope
    gc.collect()
    assert gone() is None


def test_a_subclass_that_only_has_another_name():
    class Mine(nn.LSTM):
        pass

    torch.manual_seed(0)
    model = Model(Mine(3, 4).double())
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    trace = watched_once(model, x, squares, lambda returned: returned[0])
    assert_recorded(trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_in_a_sequential_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 4)).double()
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model[1], model[0](x))
    trace = watched_once(model, x, squares, lambda returned: returned[1])
    assert_recorded(trace, unrolled.watched(squares(unrolled.h_n)), module="1", rel=EXACT)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_checkpointed_layer_is_counted_once(reentrant, dropout):
    torch.manual_seed(0)

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.rnn = nn.Linear(3, 3), nn.LSTM(3, 4, 2, dropout=dropout)

        def forward(self, x):
            return checkpoint(self.rnn, self.project(x), use_reentrant=reentrant)[0]

    case = Case(dropout=dropout)
    model = Checkpointed().double()
    x = torch.randn(5, 2, 3).double()
    torch.manual_seed(1)
    unrolled = Unrolled(model.rnn, model.project(x), masks=case.masks(x))
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        torch.manual_seed(1)
        step_of(squares(model(x)), optimizer)
    assert silent(scope.trace)
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_dropout_is_off_in_evaluation_mode():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2, dropout=0.5).double()).eval()
    x = torch.randn(5, 2, 3).double()
    unrolled = Unrolled(model.rnn, x)
    trace = watched_once(model, x, squares, lambda returned: returned[0])
    assert_recorded(trace, unrolled.watched(squares(unrolled.output)), rel=EXACT)


def test_a_backward_that_raises_is_the_users_and_the_next_step_is_whole():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2).double())
    optimizer = sgd(model)
    x = torch.randn(5, 2, 3).double().requires_grad_()
    with gradscope.attach(model, optimizer=optimizer) as scope:
        bad = 1.0 * x
        y, _ = model(bad)

        def fail(grad):
            raise RuntimeError("the user's own")

        bad.register_hook(fail)
        with pytest.raises(RuntimeError, match="the user's own"):
            squares(y).backward()
        optimizer.step()
        optimizer.zero_grad()
        unrolled = Unrolled(model.rnn, x)
        step_of(squares(model(x)[0]), optimizer)
    assert not [event for event in scope.trace.events if event.kind == "probe-failed"]
    assert_recorded(scope.trace, unrolled.watched(squares(unrolled.output)), step=-1, rel=EXACT)


def test_a_copy_and_a_pickle_record_nothing():
    torch.manual_seed(0)
    model = Model(nn.LSTM(3, 4, 2, dropout=0.5).double())
    x = torch.randn(5, 2, 3).double()
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        loss = squares(model(x)[0])
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for twin in twins:
            squares(twin(torch.randn(7, 1, 3).double())[0]).backward()
        step_of(loss, optimizer)
    assert silent(scope.trace)
    assert scope.trace.by_time("rnn", "state", "numel", name="h_l0").tolist() == [[8.0] * 5]


# -------------------------------------------------------------------- dropout whose mask cannot be had


def test_a_mask_is_that_of_the_call_and_not_of_the_moment():
    """The generator moves on between two calls, and between forward and backward."""
    torch.manual_seed(0)
    case = Case(dropout=0.5)
    model = Model(case.layer())
    xs = torch.randn(2, 5, 2, 3).double()
    torch.manual_seed(1)
    masks = [case.masks(xs[0])]
    torch.rand(17)
    masks.append(case.masks(xs[1]))
    runs = [Unrolled(model.rnn, x, masks=m) for x, m in zip(xs, masks, strict=True)]
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        torch.manual_seed(1)
        y = model.rnn(xs[0])[0]
        torch.rand(17)
        z = model.rnn(xs[1])[0]
        torch.rand(5)
        step_of(squares(y) + squares(z), optimizer)
    assert silent(scope.trace)
    assert_recorded(scope.trace, together(runs, lambda run: squares(run.output)), rel=EXACT)


def test_a_mask_that_cannot_be_had_is_told():
    """What draws random numbers between our look at the generator and the kernel's."""
    model = Model(nn.LSTM(3, 4, 2, dropout=0.5))
    optimizer = sgd(model)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        model.rnn.register_forward_pre_hook(_drawing)
        step_of(squares(model(torch.randn(5, 2, 3))[0]), optimizer)
    assert [(event.kind, event.module) for event in scope.trace.events] == [("approximate", "rnn")]


def _drawing(module: nn.Module, args: object) -> None:
    torch.rand(3)


# -------------------------------------------------------------------- the recurrent matrix


@pytest.mark.parametrize("mode", MODES)
def test_spectral_statistics_are_those_of_numpy(mode):
    torch.manual_seed(0)
    model = Model(MODES[mode](3, 5, 2, bidirectional=True))
    gates = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}.get(mode, ())
    optimizer = sgd(model)
    wanted: list[dict[str, tuple[float, float]]] = []
    with gradscope.attach(model, optimizer=optimizer, every=2) as scope:
        for _ in range(34):
            matrices = {}
            for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
                whole = getattr(model.rnn, f"weight_hh_{suffix}").detach().double().numpy()
                blocks = np.split(whole, max(len(gates), 1))
                names = [f"{gate}_{suffix}" for gate in gates] or [f"h_{suffix}"]
                for name, block in zip(names, blocks, strict=True):
                    radius = np.abs(np.linalg.eigvals(block)).max()
                    matrices[name] = radius, np.linalg.svd(block, compute_uv=False)[0]
            wanted.append(matrices)
            step_of(squares(model(torch.randn(4, 2, 3))[0]), optimizer)
    trace = scope.trace
    quantity = "gate" if gates else "state"
    for name in wanted[0]:
        radius = trace.series("rnn", quantity, "spectral_radius", name=name)
        norm = trace.series("rnn", quantity, "spectral_norm", name=name)
        for record, step in enumerate(trace.steps):
            if record in (0, 8, 16):
                assert (radius[record], norm[record]) == pytest.approx(wanted[step][name], rel=1e-5)
            else:
                assert np.isnan([radius[record], norm[record]]).all()
    for index, site in enumerate(trace.sites):
        if (site.quantity, site.name) not in {(quantity, name) for name in wanted[0]}:
            assert np.isnan(trace.statistics["spectral_radius"][:, index]).all(), site


# -------------------------------------------------------------------- memory


class Tail(torch.autograd.Function):
    """Passes on what it is given; its node holds `token`, which dies with the graph."""

    @staticmethod
    def forward(ctx, x, token):
        ctx.token = token
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class Token:
    pass


@pytest.mark.parametrize("mode", THREE)
def test_the_graph_and_the_activations_die_with_the_step(mode):
    model = Model(MODES[mode](3, 4, 2))
    optimizer = sgd(model)
    gc.collect()
    gc.disable()
    try:
        with gradscope.attach(model, optimizer=optimizer):
            alive = []
            for _ in range(3):
                token, x = Token(), torch.randn(5, 2, 3)
                y, state = model(Tail.apply(x, token))
                alive += [weakref.ref(token), weakref.ref(x), weakref.ref(y)]
                step_of(squares(y), optimizer)
                del token, x, y, state
                assert not [ref for ref in alive if ref() is not None]
    finally:
        gc.enable()


def test_what_a_pass_without_backward_left_is_dropped():
    model = Model(nn.LSTM(3, 4, 2))
    optimizer = sgd(model)
    gc.collect()
    gc.disable()
    try:
        with gradscope.attach(model, optimizer=optimizer):
            token, x = Token(), torch.randn(5, 2, 3)
            y, state = model(Tail.apply(x, token))
            alive = [weakref.ref(token), weakref.ref(x), weakref.ref(y)]
            del token, x, y, state
            optimizer.step()
            step_of(squares(model(torch.randn(5, 2, 3))[0]), optimizer)
            assert not [ref for ref in alive if ref() is not None]
            before = len([o for o in gc.get_objects() if issubclass(type(o), Tensor)])
            for _ in range(4):
                with torch.no_grad():
                    model(torch.randn(5, 2, 3))
                step_of(squares(model(torch.randn(5, 2, 3))[0]), optimizer)
            assert len([o for o in gc.get_objects() if issubclass(type(o), Tensor)]) <= before
    finally:
        gc.enable()


def test_passes_that_are_never_read_do_not_pile_up():
    """Evaluations with gradients on, within one step: what they left dies with their graph."""
    model = Model(nn.LSTM(3, 4, 2))
    optimizer = sgd(model)
    x = torch.randn(50, 20, 3)
    with gradscope.attach(model, optimizer=optimizer, probes=[Recurrent()]):
        squares(model(x)[0]).backward()
        counts = []
        for _ in range(2):
            for _ in range(5):
                model(x.clone())
            gc.collect()
            counts.append(sum(o.numel() for o in gc.get_objects() if issubclass(type(o), Tensor)))
        assert counts[-1] <= counts[0], counts


def test_detaching_in_the_middle_of_a_step_leaves_nothing():
    model = Model(nn.LSTM(3, 4, 2))
    scope = gradscope.attach(model, optimizer=sgd(model))
    token = Token()
    y, _ = model(Tail.apply(torch.randn(5, 2, 3), token))
    ref = weakref.ref(token)
    scope.detach()
    squares(y).backward()
    del y, token, _
    gc.collect()
    assert ref() is None
    assert silent(scope.trace)

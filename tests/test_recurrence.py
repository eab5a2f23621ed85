import math

import numpy as np
import pytest
import torch
from builders import read_at_the_end, recurrent_trace
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import gradscope
from gradscope.recurrence import recurrences

NAN = np.nan
E = 1 / math.e


# ------------------------------------------------------------------ the slow, obvious second implementation


def rows_of(trace, name, quantity, stat):
    """{(step, time): value}, one row after the other."""
    found = {}
    (column,) = [i for i, s in enumerate(trace.sites) if s.quantity == quantity and s.name == name] or [None]
    if column is None:
        return found
    at = list(gradscope.Statistic).index(stat)
    for i in range(len(trace.times.site)):
        if trace.times.site[i] == column:
            found[int(trace.times.step[i]), int(trace.times.time[i])] = float(trace.times.values[i, at])
    for step in range(len(trace.steps)):
        value = float(trace.statistics[stat][step, column])
        if not any(s == step for s, _ in found) and not math.isnan(value):
            found[step, 0] = value
    return found


def slowly(trace, suffix, *, loop=False):
    """Every figure of one layer and direction, segment by segment, with plain loops."""
    reverse = suffix.endswith("_reverse")

    def named(name):
        return name if loop else name.replace(".", f"_{suffix}.") if "." in name else f"{name}_{suffix}"

    def read(name, stat="rms", quantity="state_grad"):
        values = rows_of(trace, named(name), quantity, stat)
        if quantity == "state_grad" and stat != "nonfinite_count":
            broken = rows_of(trace, named(name), quantity, "nonfinite_count")
            values = {at: v for at, v in values.items() if not broken.get(at, 0) > 0}
        return values

    begun = {*read("h0", "numel", "state"), *read("c0", "numel", "state")}
    observed = {*read("h", "nonfinite_count"), *read("c", "nonfinite_count")}
    segments = []
    for step in sorted({s for s, _ in observed}):
        last = max(t for s, t in observed if s == step)
        starts = sorted({0, *(t for s, t in begun if s == step and t <= last)})
        for start, end in zip(starts, [*starts[1:], last + 1], strict=True):
            segments.append((step, start, end - start))

    def sizes(stat):
        h, c, h_carried, c_carried, c_local = (
            read(name, stat) for name in ("h", "c", "h.carried", "c.carried", "c.local")
        )
        arriving, carried = {}, {}
        for at in {*h, *c}:
            if loop:
                arriving[at] = math.sqrt(h.get(at, 0) ** 2 + c.get(at, 0) ** 2)
                carried[at] = arriving[at]
            elif at in h:
                into = c_carried.get(at, 0) + max(c_local.get(at, 0) - h[at], 0)
                arriving[at] = math.hypot(h[at], into)
                if at in h_carried:
                    carried[at] = math.hypot(h_carried[at], c_carried.get(at, 0))
        return arriving, carried

    arriving, carried = sizes("rms")
    arriving_l2, carried_l2 = sizes("l2_norm")
    c_total, c_carried = read("c", "l2_norm"), read("c.carried", "l2_norm")
    forget = {**read("forget", "mean", "gate"), **read("update", "mean", "gate")}
    out = []
    for step, start, window in segments:
        here = {"step": step, "start": start, "window": window}
        here["arriving"] = [arriving.get((step, start + t), NAN) for t in range(window)]
        here["carried"] = [carried.get((step, start + t), NAN) for t in range(window)]
        here["gain"], here["cell_gain"] = [], []
        for t in range(window):
            after = t - 1 if reverse else t + 1
            inside = 0 <= after < window and here["arriving"][after] > 1e-35
            gain = NAN
            if inside and (step, start + t) in carried_l2:
                gain = carried_l2[step, start + t] / arriving_l2[step, start + after]
            here["gain"].append(gain)
            cell = NAN
            if 0 <= after < window and c_total.get((step, start + after), 0) > 1e-30:
                cell = c_carried.get((step, start + t), NAN) / c_total[step, start + after]
            here["cell_gain"].append(cell)
        known = [g for g in here["gain"] if not math.isnan(g)]
        here["gain_per_step"] = NAN if not known else 0.0 if 0 in known else math.prod(known) ** (1 / len(known))
        order = list(range(window))[:: -1 if reverse else 1]
        seen = [t for t in order if not math.isnan(here["arriving"][t])]
        served = [t for t in seen if here["arriving"][t] > 0]
        here["lag"] = abs(served[-1] - seen[0]) if served else 0
        travel = order[order.index(seen[0]) : order.index(served[-1])][::-1] if served else []
        here["travelled"] = [here["gain"][t] for t in travel]
        for factor in (E, 1e-3):
            here["memory", factor] = slow_memory(here["travelled"], here["gain_per_step"], factor)
        f = [forget[step, start + t] for t in range(window) if (step, start + t) in forget]
        here["time_constant"] = -1 / math.log(sum(f) / len(f)) if f else NAN
        out.append(here)
    return out


def slow_memory(gains, typical, factor):
    if math.isnan(typical):
        return NAN
    product = 1.0
    for k, g in enumerate(gains):
        g = typical if math.isnan(g) else g
        if product * g <= factor:
            return k + 1 if g == 0 else k + math.log(factor / product) / math.log(g)
        product *= g
    if typical >= 1:
        return math.inf
    return len(gains) + (math.log(factor / product) / math.log(typical) if typical else 0.0)


def assert_same_as_loops(trace, suffix="l0", *, loop=False):
    """Asserts that both give the same; the recurrence."""
    (found,) = [r for r in recurrences(trace) if r.suffix == suffix]
    expected = slowly(trace, suffix, loop=loop)
    assert found.reverse == suffix.endswith("_reverse")
    assert len(found.step) == len(expected)
    memory = {factor: found.memory(factor) for factor in (E, 1e-3)}
    travelled = found.travelled()
    for i, one in enumerate(expected):
        assert (found.step[i], found.start[i], found.window[i]) == (one["step"], one["start"], one["window"])
        for name in ("arriving", "gain", "cell_gain", "carried"):
            values = getattr(found, name)
            if values is None:
                assert name == "cell_gain" or (name == "carried" and loop)
                continue
            np.testing.assert_allclose(values[i, : one["window"]], one[name], rtol=1e-5, err_msg=name)
            assert np.isnan(values[i, one["window"] :]).all()
        assert found.lag[i] == one["lag"]
        assert found.gain_per_step[i] == pytest.approx(one["gain_per_step"], rel=1e-5, nan_ok=True)
        np.testing.assert_allclose(travelled[i, : one["lag"]], one["travelled"], rtol=1e-5)
        assert np.isnan(travelled[i, one["lag"] :]).all()
        for factor, values in memory.items():
            assert values[i] == pytest.approx(one["memory", factor], rel=1e-5, nan_ok=True)
        if found.time_constant is not None:
            assert found.time_constant[i] == pytest.approx(one["time_constant"], rel=1e-5, nan_ok=True)
    return found


def random_values(seed, suffix, *, states="hc", steps=5, length=12):
    """Sizes over many decades, with what can happen to them: nothing observed, zeros, starts, sequences that end."""
    rng = np.random.default_rng(seed)
    values = {}
    for state in states:
        for part in ("", ".local", ".carried"):
            sizes = 10 ** rng.uniform(-6, 2, (steps, length))
            sizes[rng.random((steps, length)) < 0.1] = 0
            values[f"state_grad {state}_{suffix}{part}"] = sizes
        begun = np.where(rng.random((steps, length)) < 0.15, rng.random((steps, length)), NAN)
        begun[:, 0] = 0.0
        values[f"state {state}0_{suffix}"] = begun
    lengths = rng.integers(1, length + 1, steps)  # some steps have shorter sequences
    lengths[0] = length
    for key in values:
        values[key] = np.where(np.arange(length) < lengths[:, None], values[key], NAN)
    values[f"gate forget_{suffix}"] = np.where(np.arange(length) < lengths[:, None], rng.random((steps, length)), NAN)
    numel = np.broadcast_to(rng.integers(1, 9, length), (steps, length)) * 8.0
    nonfinite = (rng.random((steps, length)) < 0.05).astype(float)
    return values, {"numel": numel, "nonfinite": nonfinite}


@pytest.mark.parametrize("suffix", ["l0", "l3_reverse"])
@pytest.mark.parametrize("seed", range(12))
def test_every_figure_is_that_of_the_plain_loops(seed, suffix):
    values, more = random_values(seed, suffix)
    assert_same_as_loops(recurrent_trace(values, mode="LSTM", **more), suffix)


@pytest.mark.parametrize("seed", range(6))
def test_every_figure_of_a_plain_rnn_is_that_of_the_plain_loops(seed):
    values, more = random_values(seed, "l0", states="h")
    assert_same_as_loops(recurrent_trace(values, **more))


@pytest.mark.parametrize("states", ["h", "hc"])
@pytest.mark.parametrize("seed", range(6))
def test_every_figure_of_a_loop_is_that_of_the_plain_loops(seed, states):
    values, more = random_values(seed, "l0", states=states)
    loop = {key.replace("_l0", ""): v for key, v in values.items() if "." not in key and "gate" not in key}
    found = assert_same_as_loops(recurrent_trace(loop, mode="", **more), "", loop=True)
    assert found.carried is None
    assert found.mode == ""


# ------------------------------------------------------------------ single figures


@pytest.mark.parametrize("gain", [0.5, 0.9, 0.99])
def test_memory_of_a_constant_gain_is_that_of_a_geometric_series(gain):
    (found,) = recurrences(recurrent_trace(read_at_the_end(gain, 40)))
    assert found.gain_per_step == pytest.approx(gain, rel=1e-5)
    assert found.memory() == pytest.approx(-1 / math.log(gain), rel=1e-4)
    assert found.memory(1e-3) == pytest.approx(-math.log(1000) / math.log(gain), rel=1e-4)
    assert (found.lag == 39).all()


@pytest.mark.parametrize("gain", [1.0, 1.1])
def test_what_does_not_fade_is_remembered_for_ever(gain):
    (found,) = recurrences(recurrent_trace(read_at_the_end(gain, 40)))
    assert np.isinf(found.memory()).all()


def test_the_reverse_direction_is_the_mirror_image():
    one, other = recurrences(
        recurrent_trace(read_at_the_end(0.7, 30) | read_at_the_end(0.7, 30, "l0_reverse"), mode="GRU")
    )
    assert (one.reverse, other.reverse) == (False, True)
    np.testing.assert_allclose(one.gain, other.gain[:, ::-1])
    np.testing.assert_allclose(one.memory(1e-3), other.memory(1e-3))
    assert np.isnan(other.gain[:, 0]).all()


def test_a_dead_link_within_a_sequence_loses_everything_and_is_no_cut():
    total = np.r_[np.zeros(5), np.ones(5)]
    carried = np.r_[np.zeros(5), np.ones(4), 0.0]
    (found,) = recurrences(recurrent_trace({"state_grad h_l0": total, "state_grad h_l0.carried": carried}))
    assert (found.gain[:, 4] == 0).all()
    assert (found.gain_per_step == 0).all()
    assert found.memory(1e-3) == pytest.approx(5)
    assert not found.cut.any()
    assert (found.lag == 9).all()


def test_what_is_below_the_range_of_float32_says_nothing_of_the_gain():
    gain = 0.5
    values = {key: np.where(np.asarray(v) < 1e-38, 0, v) for key, v in read_at_the_end(gain, 300).items()}
    (found,) = recurrences(recurrent_trace(values))
    assert found.gain_per_step == pytest.approx(gain, rel=1e-3)


def test_a_state_that_no_gradient_reaches_has_no_lag_and_no_gain():
    values = {"state_grad h_l0": np.zeros(9), "state_grad h_l0.carried": np.zeros(9)}
    (found,) = recurrences(recurrent_trace(values, steps=2))
    assert found.lag.tolist() == [0, 0]
    assert np.isnan(found.gain_per_step).all()
    assert np.isnan(found.memory()).all()
    assert recurrences(recurrent_trace({"state h_l0": np.ones(9)})) == ()


def test_a_window_whose_state_comes_from_before_without_a_gradient_is_a_cut():
    starts = np.array([[0.0], [0.5], [0.5]])
    handed_on = np.array([[NAN], [NAN], [0.1]])
    values = read_at_the_end(0.9 * np.ones((3, 1)), 10) | {"state h0_l0": starts, "state_grad h0_l0": handed_on}
    (found,) = recurrences(recurrent_trace(values))
    assert found.cut.tolist() == [False, True, False]
    assert found.window.tolist() == [10, 10, 10]


def test_two_windows_of_a_step_are_two_segments():
    once = read_at_the_end(0.8, 5)
    values = {key: np.tile(v, 2) for key, v in once.items()} | {"state h0_l0": np.r_[0, [NAN] * 4, 0.3, [NAN] * 4]}
    (found,) = recurrences(recurrent_trace(values, steps=1))
    assert (found.start.tolist(), found.window.tolist(), found.cut.tolist()) == ([0, 5], [5, 5], [False, True])
    assert found.gain_per_step == pytest.approx(0.8)


def test_what_the_loss_hands_to_the_last_cell_alone_arrives_there():
    """Only c_n is read: ∂L/∂h is zero at the last step, but the cell has its gradient."""
    f = 0.9 ** np.arange(10)[::-1]
    carried = np.r_[f[:-1], 0]
    values = {
        "state_grad h_l0": np.zeros(10),
        "state_grad h_l0.carried": np.zeros(10),
        "state_grad c_l0": f,
        "state_grad c_l0.local": np.r_[np.zeros(9), 1.0],
        "state_grad c_l0.carried": carried,
    }
    (found,) = recurrences(recurrent_trace(values, mode="LSTM"))
    assert found.gain_per_step == pytest.approx(0.9)
    assert found.cell_gain is not None
    np.testing.assert_allclose(found.cell_gain[0, :-1], 0.9, rtol=1e-6)


@pytest.mark.parametrize(("mode", "slope"), [("RNN_TANH", 1 - 0.6**2), ("RNN_RELU", 1.0), ("GRU", NAN)])
def test_the_mean_slope_of_the_activation(mode, slope):
    trace = recurrent_trace(read_at_the_end(0.9, 10) | {"state h_l0": np.full(10, 0.6)}, mode=mode)
    assert recurrences(trace)[0].slope == pytest.approx(slope, nan_ok=True)


@pytest.mark.parametrize(
    ("spectrum", "said"),
    [
        ((0.4, 0.5), "largest singular value 0.5 < 1: sufficient for vanishing"),
        ((0.9, 1.5), "spectral radius 0.9 < 1: sufficient for vanishing in the end, as far as the layer is linear"),
        ((1.2, 1.2), "what an explosion needs, not enough to make one"),
    ],
)
def test_the_conditions_stand_beside_the_measured_gain(spectrum, said):
    trace = recurrent_trace(read_at_the_end(0.7, 10) | {"state h_l0": np.ones(10)}, spectrum=spectrum)
    (found,) = recurrences(trace)
    assert said in found.conditions()
    assert "measured gain 0.7 per time step" in found.conditions()
    assert (found.spectral_radius == np.float32(spectrum[0])).all()  # as last recorded, in every step
    assert recurrences(recurrent_trace(read_at_the_end(0.7, 10), mode="LSTM"))[0].conditions() == ""


@pytest.mark.parametrize(("f", "constant"), [(1.0, math.inf), (0.0, 0.0), (math.exp(-1 / 30), 30.0)])
def test_the_time_constant_of_a_gate(f, constant):
    trace = recurrent_trace(read_at_the_end(0.9, 10) | {"gate forget_l0": np.full(10, f)}, mode="LSTM")
    assert recurrences(trace)[0].time_constant == pytest.approx(constant, rel=1e-4)


def test_a_window_goes_on_behind_the_last_gradient():
    """In a loop that the loss reads in the middle."""
    values = {"state_grad h": np.r_[np.full(5, 0.5), [NAN] * 3], "state h": np.ones(8)}
    (found,) = recurrences(recurrent_trace(values, mode=""))
    assert (found.window == 8).all()
    assert (found.lag == 4).all()


def test_a_trace_without_recurrence_has_none():
    with gradscope.attach(model := nn.Linear(3, 3)) as scope:
        model(torch.ones(2, 3)).sum().backward()
    assert gradscope.recurrences(scope.trace) == ()


# ------------------------------------------------------------------ real layers


def orthogonal(r, mode="tanh"):
    torch.manual_seed(0)
    rnn = nn.RNN(4, 64, nonlinearity=mode)
    nn.init.orthogonal_(rnn.weight_hh_l0, r)
    for bias in (rnn.bias_hh_l0, rnn.bias_ih_l0):
        nn.init.zeros_(bias)
    return rnn


@pytest.mark.parametrize("r", [0.5, 0.9, 1.0])
def test_an_orthogonal_recurrence_keeps_r_in_a_layer_and_in_a_loop(r):
    rnn = orthogonal(r)
    cell = nn.RNNCell(4, 64)
    for name, weight in cell.named_parameters():
        weight.data = getattr(rnn, f"{name}_l0").data
    x = 1e-4 * torch.randn(40, 8, 4)
    for module in (rnn, cell):
        h = torch.zeros(8, 64)
        with gradscope.attach(module) as scope:
            if module is rnn:
                h = rnn(x)[0][-1]
            else:
                for row in x:
                    h = cell(row, h)
            (h * torch.randn(8, 64)).sum().backward()
        (found,) = recurrences(scope.trace)
        assert found.gain_per_step == pytest.approx(r, rel=0.02)
        assert found.lag == 39


def test_sequences_of_unequal_lengths_do_not_disturb_the_gain():
    rnn = orthogonal(0.9)
    packed = pack_padded_sequence(1e-4 * torch.randn(30, 4, 4), torch.tensor([30, 22, 9, 5]))
    with gradscope.attach(rnn) as scope:
        (rnn(packed)[1] * torch.randn(1, 4, 64)).sum().backward()
    (found,) = recurrences(scope.trace)
    np.testing.assert_allclose(found.gain[0, 22:-1], 0.9, rtol=0.02)  # the longest alone
    np.testing.assert_allclose(found.gain[0, :4], 0.9, rtol=0.02)  # all of them
    assert found.window == 30


def test_windows_of_truncated_backpropagation_are_seen_as_cuts():
    rnn = orthogonal(0.9)
    h = torch.zeros(1, 8, 64)
    optimizer = torch.optim.SGD(rnn.parameters(), 1e-3)
    with gradscope.attach(rnn, optimizer=optimizer) as scope:
        for _ in range(3):
            y, h = rnn(torch.randn(12, 8, 4), h.detach())
            y.square().mean().backward()
            optimizer.step()
    (found,) = recurrences(scope.trace)
    assert found.cut.tolist() == [False, True, True]
    assert found.window.tolist() == [12, 12, 12]


@pytest.mark.parametrize("f", [0.1, 0.9])
def test_a_forget_gate_that_is_held_is_the_gain_of_the_cell(f):
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 16)
    nn.init.zeros_(lstm.weight_hh_l0)
    with torch.no_grad():
        lstm.weight_ih_l0[16:32] = 0
        lstm.bias_hh_l0[16:32] = 0
        lstm.bias_ih_l0[16:32] = math.log(f / (1 - f))
    with gradscope.attach(lstm) as scope:
        lstm(torch.randn(20, 3, 4))[0][-1].square().sum().backward()
    (found,) = recurrences(scope.trace)
    np.testing.assert_allclose(found.cell_gain[0, :-1], f, rtol=1e-4)
    np.testing.assert_allclose(found.forget[0], f, rtol=1e-5)
    assert found.time_constant == pytest.approx(-1 / math.log(f), rel=1e-4)
    assert found.gain[0, :-2] == pytest.approx(f, rel=1e-4)

"""A change counts where it is larger than what another seed, or the steps themselves, make of it."""

import numpy as np
import pytest
import torch
from builders import joined, trace_of
from torch import nn

import gradscope
from gradscope.alignment import align
from gradscope.changes import BARS, STANDSTILL, Measure, compare, dead_shares, overlap, units_of, update_ratios


def compared(a, b):
    return compare(a, b, align(a, b), *overlap(a.steps, b.steps)[:2])


def with_gain(gain, *, steps=20, noise=0.0, every=1, modules=("fc",)):
    """One module or more; the gain in each step differs by up to `noise` decades."""
    wobble = noise * np.sin(np.arange(steps))[:, None]
    into = np.full((steps, len(modules)), gain) * 10**wobble
    return trace_of(modules=list(modules), input_grad_l2_norm=into, output_grad_l2_norm=np.ones_like(into), every=every)


def test_a_change_is_the_difference_of_the_medians():
    (change,) = compared(with_gain(0.5, noise=0.1), with_gain(0.05, noise=0.1)).changes
    assert change.measure is Measure.GAIN
    assert change.by == pytest.approx(-1.0)
    assert change.a.median == pytest.approx(np.median(np.log10(0.5) + 0.1 * np.sin(np.arange(20))))
    assert change.a.low < change.a.median < change.a.high
    assert change.marked


@pytest.mark.parametrize(("factor", "noise", "marked"), [
    (1.5, 0.0, False),  # under the bar
    (2.0, 0.0, True),
    (2.0, 0.5, False),  # the steps of each run differ by more
    (30.0, 0.5, True),
])  # fmt: skip
def test_it_counts_over_the_bar_and_over_the_spread_of_the_steps(factor, noise, marked):
    for a, b in ((0.5, 0.5 * factor), (0.5 * factor, 0.5)):
        (change,) = compared(with_gain(a, noise=noise), with_gain(b, noise=noise)).changes
        assert change.marked == marked


def test_a_single_bad_step_is_no_change():
    into = np.ones((20, 1))
    into[7] = 1e6
    bad = trace_of(modules=["fc"], input_grad_l2_norm=into, output_grad_l2_norm=np.ones((20, 1)))
    (change,) = compared(with_gain(1.0), bad).changes
    assert not change.marked


def test_only_steps_that_both_have_covered_are_compared():
    late = np.where(np.arange(60)[:, None] < 20, 1.0, 100.0)  # what happens later has no counterpart
    long = trace_of(modules=["fc"], input_grad_l2_norm=late, output_grad_l2_norm=np.ones((60, 1)))
    (change,) = compared(with_gain(1.0, steps=20), long).changes
    assert (change.a.steps, change.b.steps, change.by) == (20, 20, 0.0)
    (sparse,) = compared(with_gain(1.0, steps=20), with_gain(1.0, steps=10, every=5)).changes
    assert (sparse.a.steps, sparse.b.steps) == (20, 4)


def test_runs_without_common_steps_are_compared_as_wholes():
    assert overlap(np.arange(10), np.arange(0, 50, 3)) == (0, 9, True)
    assert overlap(np.arange(10), np.arange(100, 110)) == (0, 109, False)
    assert overlap(np.arange(10), np.arange(8, 20)) == (0, 19, False)  # two steps are too few


def test_of_two_steps_nothing_is_said():
    assert compared(with_gain(1.0, steps=2), with_gain(9.0, steps=2)).changes == ()


def dead(share, units=None):
    modules = ["fc", "act"]
    shapes = {} if units is None else {"fc.weight": [units, 4]}
    weight = trace_of(steps=5, modules=modules[:1], weight_rms=[1.0], meta={"shapes": shapes})
    activation = trace_of(
        steps=5, modules=modules, types=["Linear", "ReLU"], output_dead_fraction=[np.nan, share],
        output_rms=[1.0, 1.0],
    )  # fmt: skip
    return joined(weight, activation)


@pytest.mark.parametrize(("units", "marked"), [(None, False), (16, False), (1000, True)])
def test_of_a_few_units_some_are_dead_by_chance(units, marked):
    (change,) = compared(dead(0.2, units), dead(0.5, units)).changes
    assert change.measure is Measure.DEAD
    assert change.by == pytest.approx(0.3)
    assert change.marked == marked
    p, n = 0.35, units or 16
    assert change.bar == pytest.approx(max(BARS[Measure.DEAD], 4 * np.sqrt(2 * p * (1 - p) / n)))


def test_chance_alone_does_not_reach_the_bar():
    drawn = np.random.default_rng(0).binomial(16, 0.3, size=(100, 2)) / 16
    for one, other in drawn:
        (change,) = compared(dead(one, 16), dead(other, 16)).changes
        assert not change.marked


def updating(update, weight=((1.0, 1.0),), steps=5):
    """Two parameters of one module: a weight and a bias."""
    shape = np.ones((steps, 1))
    parts = []
    for name, moved, size in zip(("weight", "bias"), update, np.broadcast_to(weight, (1, 2))[0], strict=True):
        parts.append(
            trace_of(
                modules=["fc"], names={"weight": name, "weight_update": name},
                weight_l2_norm=size * shape, weight_update_l2_norm=moved * shape,
            )
        )  # fmt: skip
    return joined(*parts)


def test_the_update_ratio_is_of_all_parameters_of_a_layer_together():
    ratio = update_ratios(updating((3e-3, 4e-3), ((3.0, 4.0),)))["fc"].value
    np.testing.assert_allclose(ratio, -3.0, atol=1e-6)
    bias_from_zero = update_ratios(updating((1e-3, 1e-3), ((1.0, 0.0),)))["fc"].value
    np.testing.assert_allclose(bias_from_zero, np.log10(np.sqrt(2) * 1e-3), atol=1e-6)


def test_what_stands_still_does_so_however_little_it_moves():
    for little in (0.0, 1e-12):
        assert (update_ratios(updating((little, 0.0)))["fc"].value == STANDSTILL).all()
    (change,) = compared(updating((0.0, 0.0)), updating((1e-9, 0.0))).changes
    assert (change.by, change.marked) == (0.0, False)
    (frozen,) = compared(updating((1e-3, 0.0)), updating((0.0, 0.0))).changes
    assert frozen.marked


def test_what_only_one_run_knows_is_named():
    a = with_gain(1.0, modules=("fc", "out"))
    b = trace_of(
        modules=["fc", "out"], input_grad_l2_norm=np.full((20, 2), [1.0, np.nan]),
        output_grad_l2_norm=np.ones((20, 2)),
    )  # fmt: skip
    found = compared(a, b)
    assert [change.module for change in found.changes] == ["fc"]
    assert found.only_a == {Measure.GAIN: ("out",)}
    assert compared(b, a).only_b == {Measure.GAIN: ("out",)}


def test_layers_are_paired_across_a_prefix_and_so_are_time_steps():
    def rnn(name):
        torch.manual_seed(0)
        model = nn.ModuleDict({"rnn": nn.RNN(2, 8, batch_first=True), "head": nn.Linear(8, 1)})
        whole = nn.ModuleDict({name: model}) if name else model
        with gradscope.attach(whole) as scope:
            for _ in range(4):
                model["head"](model["rnn"](torch.zeros(4, 12, 2))[0][:, -1]).square().mean().backward()
                scope.step()
        return scope.trace

    found = compared(rnn(""), rnn("net"))
    named = {(change.module, change.other) for change in found.changes}
    assert ("rnn l0 per time step", "net.rnn l0 per time step") in named
    assert ("head", "net.head") in named
    assert {change.layer for change in found.changes} == {"rnn", "head"}
    assert all(change.by == 0 for change in found.changes)


def trained(seed, act=nn.ReLU):
    torch.manual_seed(seed)
    parts = [part for i in range(4) for part in (nn.Linear(4 if i == 0 else 24, 24), act())]
    model = nn.Sequential(*parts, nn.Linear(24, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(20):
            x = torch.randn(32, 4)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return scope.trace


def test_another_seed_is_no_change_and_another_activation_is():
    first = trained(0)
    for seed in (1, 2):
        found = compared(first, trained(seed))
        assert {change.measure for change in found.changes} == set(Measure)
        assert not [change for change in found.changes if change.marked]
    sigmoid = compared(first, trained(0, nn.Sigmoid))
    assert {c.module for c in sigmoid.changes if c.marked and c.measure is Measure.GAIN} >= {"1", "3", "5", "7"}
    assert sigmoid.only_a == {}  # a Sigmoid's units are not counted as dead, which is no news


def test_units_are_the_rows_of_the_weight_before():
    trace = trained(0)
    assert {units_of(trace)[str(i)] for i in range(8)} == {24}
    assert units_of(trace)["8"] == 2
    shares = dead_shares(trace)
    assert shares.keys() == {"1", "3", "5", "7"}
    steps, share = shares["3"]
    np.testing.assert_allclose(share, trace.series("3", "output", "dead_fraction")[steps])

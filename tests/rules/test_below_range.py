import numpy as np
import pytest
import torch
from builders import trace_of

from gradscope.records import COLUMN, Quantity
from gradscope.rules.below_range import lost_below, still_learning
from gradscope.statistics import measure_many

MODULES = ["a", "b", "c"]
HALF = {"dtypes": dict.fromkeys(MODULES, "float16")}
STEPS = 8


def stored(sigmas, *, keep=1.0, quantity="output_grad", loss=1.0, scale=np.nan, meta=HALF):
    """What float16 keeps of normal numbers of these sizes, of which a share `keep` is not zero by nature."""
    made = []
    for i, sigma in enumerate(sigmas):
        x = torch.randn(4000, generator=torch.Generator().manual_seed(i)).double() * sigma
        made.append(x.masked_fill(torch.arange(4000) >= 4000 * keep, 0).half())
    rows = np.tile(measure_many(made), (STEPS, 1, 1))
    names = ("rms", "zero_fraction", "numel", "nonfinite_count", "abs_max", "underflow_fraction")
    found = trace_of(modules=MODULES, meta=meta, loss=loss, **{f"{quantity}_{n}": rows[:, :, COLUMN[n]] for n in names})
    found.per_step["loss_scale"][:] = scale
    return found


def lost_in(found, quantity=Quantity.OUTPUT_GRAD):
    return [found.sites[one.column].module for one in lost_below(found, quantity, 2.0)]


def test_what_is_below_the_range_is_lost_whatever_is_zero_by_nature():
    for keep in (1.0, 0.1):
        assert lost_in(stored([3e-8, 5e-8, 1e-5], keep=keep)) == ["b", "a"]
        assert lost_in(stored([1e-6, 1e-6, 1e-6], keep=keep)) == []  # subnormal, with four digits left


def test_nothing_but_zeros_counts_only_behind_what_is_about_to_go():
    assert lost_in(stored([1e-12, 1e-12, 1e-6])) == ["b", "a"]
    assert lost_in(stored([0.0, 0.0, 1e-3])) == []  # a unit that is off, a branch that begins at zero


def test_where_the_loss_hands_back_nothing_it_depends_on_how_small_the_loss_is():
    assert lost_in(stored([0.0, 0.0, 0.0], loss=1e-6)) == ["c", "b", "a"]
    assert lost_in(stored([0.0, 0.0, 0.0], loss=1.0)) == []
    assert lost_in(stored([0.0, 0.0, 0.0], loss=np.nan)) == []


def test_zeros_beside_steps_that_show_only_the_last_bit_are_lost_as_well():
    """A term of a tiny weight: the loss itself, which other terms make large, does not tell."""
    some = stored([0.0, 0.0, 3e-8])
    whole = stored([0.0, 0.0, 1e-4])
    often = np.arange(STEPS)[:, None] % 4 > 0
    for beside, modules in ((some, ["c"]), (whole, [])):
        found = stored([0.0, 0.0, 0.0])
        for name, values in found.statistics.items():
            values[:] = np.where(often, values, beside.statistics[name])
        lost = lost_below(found, Quantity.OUTPUT_GRAD, 2.0)
        assert [found.sites[one.column].module for one in lost][:1] == modules
        assert all(one.gone == 0.75 for one in lost[:1])


def test_a_loss_scale_that_the_recording_took_out_again_counts():
    assert lost_in(stored([3e-8, 3e-8, 3e-8], scale=65536.0)) == []


def test_float32_and_bfloat16_have_no_such_range():
    for meta in ({}, {"dtypes": dict.fromkeys(MODULES, "bfloat16")}):
        assert lost_in(stored([3e-8, 3e-8, 3e-8], meta=meta)) == []


def test_in_the_forward_pass_it_begins_at_the_input():
    found = stored([1e-5, 3e-8, 1e-12], quantity="output")
    assert lost_in(found, Quantity.OUTPUT) == ["b", "c"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ([2, 1, 0.2, 0.09, 0.05, 0.01], [True, True, True, False, False, False]),
        ([np.nan] * 6, [True, True, True, False, False, False]),
        ([0, 0, 0, 0, 0, 0], [True, True, True, False, False, False]),
    ],
)
def test_what_has_been_learned_needs_no_gradient(loss, expected):
    assert still_learning(trace_of(steps=6, output_rms=[1.0], loss=loss)).tolist() == expected

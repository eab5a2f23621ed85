from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.births import before, birth_of

D = 3


def trace(sick, *, modules=("a", "b", "c"), scale=np.nan, **bad):
    """Counts of non-finite elements, by quantity, in the steps that are `sick`."""
    measured = {}
    for quantity in ("output", "weight_grad"):
        measured[f"{quantity}_rms"] = np.ones(D)
        counts = np.asarray(bad.get(quantity, np.zeros(D)), dtype=float)
        measured[f"{quantity}_nonfinite_count"] = np.asarray(sick)[:, None] * counts
    found = trace_of(modules=list(modules), **measured)
    found.per_step["loss_scale"][:] = scale
    return found


LATE = np.arange(10) >= 6
ONCE = np.arange(10) == 6


def test_it_says_when_and_whether_it_heals():
    lasting = birth_of(trace(LATE, output=[0, 4, 4], weight_grad=[4, 4, 4]))
    assert (lasting.module, lasting.row, list(lasting.rows), lasting.reached) == ("b", 6, [6, 7, 8, 9], 3)
    assert not lasting.heals
    assert lasting.extent(10) == "3 modules are reached in it, 4 of 10 steps are affected"
    assert replace(lasting, reached=0, rows=lasting.rows[:1]).extent(1) == "1 of 1 step is affected"
    assert not lasting.only_gradients
    passing = birth_of(trace(ONCE, weight_grad=[4, 0, 0]))
    assert passing.heals
    assert passing.only_gradients


def test_gradients_that_a_scaler_skipped_are_no_birth():
    assert birth_of(trace(ONCE, weight_grad=[4, 0, 0], scale=1024.0)) is None
    assert birth_of(trace(LATE, weight_grad=[4, 0, 0], scale=1024.0)) is not None


def test_nothing_is_born_of_finite_numbers():
    assert birth_of(trace(LATE)) is None


@pytest.mark.parametrize(
    ("call", "owner"), [("attn.softmax#0", "attn"), ("softmax#0", ""), ("blocks.1.mix.gelu#2", "blocks.1.mix")]
)
def test_a_call_belongs_to_the_module_whose_code_makes_it(call, owner):
    birth = birth_of(trace(LATE, modules=("a", call, "c"), output=[0, 4, 4]))
    assert birth.module == owner
    assert birth.how.startswith(f"The output of {call} ")


def test_what_ran_before_is_another_module():
    found = trace(LATE, output=[0, 4, 4])
    assert [before(found, column) for column in found.columns("output")] == ["the input", "a", "b"]


BROKEN = {"broken": {"block": 6, "model": 6}}


def test_what_a_container_computes_behind_its_last_module_is_its_own():
    found = trace(LATE, modules=("block.a", "block.b", "c"), output=[0, 0, 4])
    assert birth_of(found).module == "c"
    object.__setattr__(found, "meta", BROKEN)
    assert birth_of(found).module == "block"
    assert "c takes it in" in birth_of(found).how


def test_a_container_that_only_passes_on_what_a_module_inside_of_it_made_is_not_blamed():
    found = trace(LATE, modules=("a", "block.b", "c"), output=[0, 4, 4])
    object.__setattr__(found, "meta", BROKEN)
    assert birth_of(found).module == "block.b"


def test_a_container_whose_output_was_so_before_is_not_blamed():
    found = trace(LATE, modules=("block.a", "block.b", "c"), output=[0, 0, 4])
    object.__setattr__(found, "meta", {"broken": {"block": 2}})
    assert birth_of(found).module == "c"

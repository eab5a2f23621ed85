import numpy as np
import pytest
from builders import trace_of

from gradscope.findings import Severity
from gradscope.rules.non_finite import NonFinite

BORN = 6
D = 4


def trace(*, heals=False, modules=("a", "b", "angle", "head"), meta=None, **bad):
    """Counts of non-finite elements from step `BORN` on, by quantity."""
    step = np.arange(10)[:, None]
    sick = step == BORN if heals else step >= BORN
    measured = {}
    for quantity in ("output", "output_grad", "input_grad", "weight_grad", "weight", "weight_update"):
        measured[f"{quantity}_rms"] = np.ones(D)
        measured[f"{quantity}_abs_max"] = np.broadcast_to(np.arange(10.0)[:, None] + 1, (10, D))
        measured[f"{quantity}_nonfinite_count"] = np.where(sick, bad.get(quantity, np.zeros(D)), 0)
    return trace_of(modules=list(modules), meta=meta, **measured)


ALL = np.full(D, 7.0)
BIRTHS = {
    "forward": (
        {"output": [0, 7, 7, 7], "output_grad": ALL, "input_grad": ALL, "weight_grad": ALL},
        "b",
        "The output of b (Linear) is the first that is not finite",
    ),
    "backward": (
        {"output_grad": [7, 7, 0, 0], "input_grad": [7, 7, 7, 0], "weight_grad": [7, 7, 0, 0]},
        "angle",
        "backward pass of angle",
    ),
    "behind a module": (
        {"output_grad": [7, 7, 0, 0], "input_grad": [7, 7, 0, 0], "weight_grad": [7, 7, 0, 0]},
        "b",
        "b from",
    ),
    "a parameter's gradient": ({"weight_grad": [0, 7, 0, 0]}, "b", "gradient of b.weight"),
    "an update": ({"weight_update": [0, 0, 7, 0]}, "angle", "update of angle.weight overflows"),
    "a weight": ({"weight": [7, 0, 0, 0], "output": ALL}, "a", "parameter a.weight"),
}


@pytest.mark.parametrize(("bad", "module", "said"), BIRTHS.values(), ids=BIRTHS)
def test_the_place_and_the_direction_of_the_birth_are_named(bad, module, said):
    (finding,) = NonFinite().check(trace(**bad))
    assert finding.module == module
    assert said in finding.message
    assert (finding.first_step, finding.last_step, finding.severity) == (BORN, 9, Severity.ERROR)


def test_it_is_told_of_what_the_elements_are_and_how_far_they_went():
    (finding,) = NonFinite().check(trace(**BIRTHS["forward"][0]))
    assert "7 of 1000 elements of the output are NaN or infinite (4 modules are reached in it, 4 of 10 steps are" in (
        finding.message
    )
    (finding,) = NonFinite().check(trace(**BIRTHS["an update"][0]))
    assert "7 of 1000 elements of the update are NaN" in finding.message


def test_a_parameter_that_is_broken_from_the_start_was_broken_by_no_update():
    (finding,) = NonFinite().check(trace_of(weight_rms=[1.0, 1.0], weight_nonfinite_count=[7.0, 0.0]))
    assert finding.remedy.startswith(f"It was so before the first step: look at how {finding.module} is initialised")


def test_what_lies_before_a_birth_is_named():
    """Functions between two modules are no sites: they may have made it."""
    (first,) = NonFinite().check(trace(output=ALL))
    assert "between the input and it" in first.remedy
    (second,) = NonFinite().check(trace(output=[0, 7, 7, 7]))
    assert "between a and it" in second.remedy


RANK = {"distributed": {"rank": 1, "world_size": 2}}


def test_what_another_rank_brought_is_not_blamed_on_a_module_of_this_one():
    (finding,) = NonFinite().check(trace(meta=RANK, weight_grad=[7, 7, 7, 7]))
    assert (finding.module, finding.severity) == ("", Severity.ERROR)
    assert finding.message.startswith("Rank 1 computes finite gradients, but the sum over all ranks is not finite")
    assert "gradscope merge" in finding.remedy


def test_what_a_rank_makes_itself_is_named_in_its_own_file():
    bad = {"output_grad": [7, 7, 0, 0], "input_grad": [7, 7, 7, 0], "weight_grad": [7, 7, 7, 7]}
    (finding,) = NonFinite().check(trace(meta=RANK, **bad))
    assert finding.module == "angle"


def test_finite_numbers_are_clean():
    assert list(NonFinite().check(trace())) == []


def test_a_mask_of_infinities_that_nothing_follows_from_is_meant():
    assert list(NonFinite().check(trace(output=[0, 7, 0, 0]))) == []


def test_an_infinite_slope_that_reaches_no_parameter_is_harmless():
    """The root of what a rectifier has set to zero: the rectifier takes the infinity for nothing."""
    assert list(NonFinite().check(trace(output_grad=[0, 7, 0, 0], input_grad=[0, 0, 7, 0]))) == []


def test_a_mask_of_infinities_is_not_blamed_for_what_breaks_later():
    masked = trace(output=[0, 0, 7, 7])
    masked.statistics["nonfinite_count"][:, masked.column("a", "output")] = 3
    (finding,) = NonFinite().check(masked)
    assert (finding.module, finding.first_step) == ("angle", BORN)


def test_a_container_is_not_blamed_for_a_module_inside_of_it():
    bad = {"output_grad": [7, 0, 0, 0], "input_grad": [7, 7, 7, 0], "weight_grad": [7, 0, 0, 0]}
    (finding,) = NonFinite().check(trace(modules=("a", "block.norm", "block", "head"), **bad))
    assert finding.module == "block.norm"


def test_one_step_of_broken_gradients_that_no_weight_took_in_is_a_warning():
    (finding,) = NonFinite().check(trace(heals=True, weight_grad=[7, 0, 0, 0]))
    assert finding.severity is Severity.WARNING


def test_numbers_that_grew_into_it_have_overflowed():
    counts = np.where(np.arange(10)[:, None] >= BORN, 7, 0)
    peaks = 10.0 ** (3 * np.arange(10))[:, None]
    found = trace_of(output_rms=[1.0], output_nonfinite_count=counts, output_abs_max=peaks)
    (finding,) = NonFinite().check(found)
    assert finding.cause.endswith("grew from 1 to 1e+15 in the steps before: it overflowed.")
    assert finding.remedy.startswith("The numbers overflow")

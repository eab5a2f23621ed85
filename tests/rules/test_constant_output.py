import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.links import INPUT, OUTPUT, End, Link, Links, Side
from gradscope.rules.constant_output import ConstantOutput

STEPS = 33
RECORDS = [0, 1, 2, 4, 8, 16, 32]
TYPES = ["Linear", "Tanh", "Linear", "Tanh", "Linear"]


def trace(spread, gradient=None, *, types=TYPES, meta=None, dead=0.0, weight=0.3, rms=1.0):
    """sample_spread of five modules in a row, one value or one for each record; norms of their ∂L/∂y."""
    values = np.full((STEPS, len(types)), np.nan)
    values[RECORDS] = np.stack([np.broadcast_to(s, len(RECORDS)) for s in spread], axis=1)
    gradient = np.ones(len(types)) if gradient is None else np.asarray(gradient, dtype=float)
    return trace_of(
        types=types,
        output_sample_spread=values,
        output_rms=np.full((STEPS, len(types)), rms),
        output_zero_fraction=np.zeros(len(types)),
        output_dead_fraction=np.full(len(types), dead),
        output_grad_l2_norm=gradient,
        weight_rms=np.full(len(types), weight),
        weight_l2_norm=np.ones(len(types)),
        meta=meta,
    )


BROKEN = {
    "nothing passes back": (trace([0.9, 0.9, 0.0, 0.5, 0.5], [0, 0, 1, 1, 1]), "2"),
    "almost nothing passes back": (trace([0.9, 0.9, 1e-7, 0.5, 0.5], [1e-6, 1e-6, 1, 1, 1]), "2"),
    "all that follows is constant": (trace([0.9, 0.9, 0.0, 0.0, 0.0]), "2"),
    "it becomes constant": (trace([0.9, [0.9, 0.9, 0, 0, 0, 0, 0], 0.0, 0.0, 0.0]), "1"),
    "rounding of a normalisation": (
        trace(
            [0.9, 0.9, 2e-3, 1e-3, 1e-3], [1e-6, 1e-6, 1, 1, 1], types=[*TYPES[:2], "GroupNorm", *TYPES[3:]], rms=0.1
        ),
        "2",
    ),
}
CLEAN = {
    "all depends on the input": trace([0.9, 0.9, 0.8, 0.8, 0.9]),
    "a branch beside a path that carries": trace([0.9, 0.9, 0.0, 0.5, 0.5]),
    "zero at the start, and leaves it": trace([0.9, 0.9, [0, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5], 0.5, 0.5], [0, 0, 1, 1, 1]),
    "it fades layer by layer": trace([0.9, 1e-2, 1e-4, 1e-6, 1e-8], [0, 0, 1, 1, 1]),
    "a batch of equal samples": trace([0.0, 0.0, 0.0, 0.0, 0.0]),
    "the units have died": trace([0.9, 0.0, 0.0, 0.0, 0.0], [0, 1, 1, 1, 1], dead=1.0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_module_that_does_not_depend_on_its_input_is_found(name):
    given, module = BROKEN[name]
    (finding,) = ConstantOutput().check(given)
    assert (finding.module, finding.severity) == (module, Severity.ERROR)
    assert f"What {module} returns does not depend on the sample since step" in finding.message


@pytest.mark.parametrize("name", CLEAN)
def test_what_depends_on_its_input_or_costs_nothing_is_clean(name):
    assert list(ConstantOutput().check(CLEAN[name])) == []


def test_it_is_told_since_when():
    (finding,) = ConstantOutput().check(BROKEN["it becomes constant"][0])
    assert (finding.first_step, finding.last_step) == (2, 32)


@pytest.mark.parametrize(
    ("kind", "weight", "words"),
    [
        ("BatchNorm1d", 0.0, "The scale of 2 is zero"),
        ("LayerNorm", 1.0, "a value less its own mean is zero"),
        ("Softmax", 1.0, "a softmax over a single element"),
        ("Dropout", 1.0, "2 drops every element"),
        ("Linear", 0.0, "The weight of 2 is zero"),
        ("Linear", 1.0, "What lies between 1 and 2"),
    ],
)
def test_the_cause_is_that_of_the_kind_of_module(kind, weight, words):
    types = [*TYPES[:2], kind, *TYPES[3:]]
    (finding,) = ConstantOutput().check(trace([0.9, 0.9, 0.0, 0.0, 0.0], types=types, weight=weight))
    assert words in finding.cause


def led(*edges):
    """Metadata of a trace whose modules feed each other so."""
    links = Links()
    for one, other in edges:
        source = End(INPUT if one == "in" else one, Side.RETURNED)
        links.add(Link(source, End(OUTPUT if other == "out" else other, Side.GIVEN)), 0, 0)
    return {"flow": links.to_list()}


CHAIN = ("in", "0"), ("0", "1"), ("1", "2"), ("2", "3"), ("3", "4"), ("4", "out")


def test_a_branch_that_is_lost_beside_a_path_around_it_is_a_warning():
    spread, gradient = [0.9, 0.9, 0.0, 0.5, 0.5], [1, 0, 1, 1, 1]
    (finding,) = ConstantOutput().check(trace(spread, gradient, meta=led(*CHAIN, ("0", "3"))))
    assert finding.severity is Severity.WARNING


def test_what_no_module_with_a_spread_feeds_is_not_constant():
    by_parameters = led(("in", "0"), ("0", "1"), ("1", "3"), ("in", "2"), ("2", "3"), ("3", "4"), ("4", "out"))
    assert list(ConstantOutput().check(trace([0.9, 0.9, 0.0, 0.5, 0.5], [0, 0, 1, 1, 1], meta=by_parameters))) == []


def test_several_walls_are_one_finding():
    spread, gradient = [0.9, 0.0, 0.9, 0.0, 0.5], [0, 1, 0, 1, 1]
    meta = led(("in", "0"), ("0", "1"), ("1", "4"), ("in", "2"), ("2", "3"), ("3", "4"), ("4", "out"))
    (finding,) = ConstantOutput().check(trace(spread, gradient, meta=meta))
    assert finding.modules == ("1", "3")
    assert "so is one other module" in finding.message


def test_one_record_is_too_little():
    values = np.full((STEPS, 5), np.nan)
    values[0] = 0.0
    with pytest.raises(NotJudged, match="in 2 records that measure them"):
        list(ConstantOutput().check(trace_of(output_sample_spread=values)))

"""Which rules a model concerns, by the activation functions that it has."""

import numpy as np
import pytest
from builders import trace_of

from gradscope.rules.activations import ACTIVATIONS, CAN_DIE, LARGEST_SLOPE, RECTIFIERS, asked_gain
from gradscope.rules.dead_units import DeadUnits
from gradscope.rules.engine import diagnose
from gradscope.rules.saturation import Saturation
from gradscope.units import ACTIVATION_FUNCTIONS


@pytest.mark.parametrize(
    ("types", "rectifies", "bounded"),
    [
        (["Linear", "ReLU"], True, False),
        (["Linear", "Sigmoid"], False, True),
        (["Linear", "ReLU6"], True, True),
        (["ReLU", "Tanh"], True, True),
        (["Linear", "Softplus"], False, False),
        (["Linear", "LeakyReLU"], False, False),
        (["Linear", "Swoosh"], True, True),  # it may be either
        (["Linear", "LSTM"], True, True),
    ],
)
def test_a_model_without_such_an_activation_is_no_concern_of_the_rule(types, rectifies, bounded):
    trace = trace_of(types=types, output_rms=np.ones(2))
    assert DeadUnits().concerns(trace) is rectifies
    assert Saturation().concerns(trace) is bounded
    unjudged = {item.rule for item in diagnose(trace, [DeadUnits(), Saturation()]).not_judged}
    assert ("dead-units" in unjudged, "saturation" in unjudged) == (rectifies, bounded)


def test_units_that_were_seen_dead_concern_the_rule_whatever_the_module_is_called():
    trace = trace_of(types=["Tanh", "Swoosh"], output_rms=np.ones(2), output_dead_fraction=[np.nan, 0.5])
    assert DeadUnits().concerns(trace)


def test_what_cannot_die_is_what_the_recorder_counts_no_dead_units_of():
    unwatched = {one.module.__name__ for one in ACTIVATION_FUNCTIONS if one.of is None}
    assert unwatched & RECTIFIERS == RECTIFIERS - CAN_DIE


def test_rectifiers_ask_for_twice_the_mean_square():
    assert {asked_gain(name) * asked_gain(name) for name in RECTIFIERS} <= {2**0.5 * 2**0.5}
    assert {asked_gain(name) for name in (ACTIVATIONS - RECTIFIERS) | {""}} == {1.0}
    assert max(LARGEST_SLOPE.values()) == 1.0

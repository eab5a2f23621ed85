import numpy as np
import pytest
from builders import joined, trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.dead_units import DeadUnits

NAN = np.nan


def trace(dead, steps=20, **more):
    """One share for each of three ReLUs, each behind a Linear."""
    dead = np.broadcast_to(np.asarray(dead, dtype=float), (steps, 3))
    share = np.full((steps, 6), NAN)
    share[:, 1::2] = dead
    return trace_of(
        types=["Linear", "ReLU"] * 3,
        weight_rms=[0.2, NAN] * 3,
        output_rms=np.ones(6),
        output_mean=[-9.0, 0] * 3,
        output_max=[-3.2, 0] * 3,
        output_dead_fraction=share,
        **more,
    )


rising = np.linspace(0, 1, 20)[:, None] * [0, 1, 0]
CLEAN = {
    "none": trace([0, 0, 0]),
    "a third": trace([0.3, 0.2, 0.1]),
    "by chance in a small layer": trace([0.6, 0.7, 0.5]),
    "dead at first, awake at the end": trace(1 - rising - [1, 0, 1]),
}


@pytest.mark.parametrize("found", CLEAN.values(), ids=CLEAN)
def test_a_few_dead_units_are_no_fault(found):
    assert list(DeadUnits().check(found)) == []


@pytest.mark.parametrize(("share", "severity"), [(0.8, Severity.WARNING), (1.0, Severity.ERROR)])
def test_a_layer_that_lost_its_width_is_found(share, severity):
    (finding,) = DeadUnits().check(trace([0.1, share, 0.1]))
    assert (finding.module, finding.severity) == ("3", severity)
    assert finding.message == f"{share:.0%} of the units of 3 are silent for every input since step 0."
    assert "2 gives it values of mean -9 and at most -3.2 at step 19" in finding.cause


def test_units_that_died_on_the_way_are_silent_since_the_window_began_that_shows_it():
    share = np.zeros((40, 3))
    share[28:, 1] = 1  # silent from record 21 on: of the last eight records they were silent in all
    (finding,) = DeadUnits().check(trace(share, steps=40))
    assert finding.first_step == 21
    assert "silent for every input since step 21" in finding.message


def built(share, mean):
    """Three ReLUs behind Linears of 64 units, whose outputs of rms 8 have that mean."""
    found = trace_of(
        modules=["fc1", "relu#0", "fc2", "relu#1", "fc3", "relu#2"],
        types=["Linear", "ReLU"] * 3,
        output_rms=[8.0, 1] * 3,
        output_mean=[0.0, 0, mean, 0, 0, 0],
        output_max=[1.0, 0] * 3,
        output_dead_fraction=[NAN, 0, NAN, share, NAN, 0],
        weight_rms=[0.2, NAN] * 3,
    )
    biases = trace_of(
        modules=["fc1", "fc2", "fc3"],
        names={"weight": "bias"},
        numel=64,
        weight_rms=[0, 8, 0],
        weight_mean=[0, -6.3, 0],
        weight_min=[0, -10, 0],
    )
    return joined(found, biases)


def test_half_of_a_layer_that_was_built_dead_counts():
    (finding,) = DeadUnits().check(built(0.63, -6.3))
    assert (finding.module, finding.severity, finding.threshold) == ("fc2", Severity.WARNING, 0.5)
    assert finding.message == "63% of the units of the ReLU after fc2 are silent for every input since step 0."
    assert finding.remedy == "Start with the biases of fc2 at zero: their mean is -6.3, the least -10."


@pytest.mark.parametrize(("share", "mean"), [(0.4, -6.3), (0.63, -1.0), (0.63, 3.0)])
def test_half_a_layer_that_is_dead_by_chance_does_not(share, mean):
    assert list(DeadUnits().check(built(share, mean))) == []


def test_dying_has_an_onset():
    (finding,) = DeadUnits().check(trace(rising))
    assert finding.first_step == 8  # dead at record 15 is silent since record 8


def test_layers_that_follow_a_dead_one_belong_to_its_finding():
    (finding,) = DeadUnits().check(trace([1.0, 1.0, 1.0]))
    assert finding.module == "1"
    assert len(finding.sites) == 3
    assert "2 more activations are much the same" in finding.message


def test_two_steps_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="3 recorded steps"):
        list(DeadUnits().check(trace([1, 1, 1], steps=2)))


def test_what_an_activation_is_given_is_told_only_while_it_is_a_number():
    found = trace_of(
        modules=["fc", "relu"],
        types=["Linear", "ReLU"],
        output_dead_fraction=[np.nan, 1.0],
        output_mean=[np.nan, 0.0],
        output_nonfinite_count=[1000.0, 0.0],
        weight_rms=[1.0],
    )
    (finding,) = DeadUnits().check(found)
    assert finding.cause == "The share was 100% in the first recorded step."

import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged, UsageError
from gradscope.records import Quantity
from gradscope.rules import Rule
from gradscope.rules.engine import default_rules, diagnose


@dataclass(frozen=True)
class Broken(Rule):
    """Fails."""

    code = "XX1"
    name = "broken"
    reads = frozenset({Quantity.OUTPUT})

    def check(self, trace):
        raise ZeroDivisionError("by zero")
        yield


@dataclass(frozen=True)
class Undecided(Rule):
    """Lacks data."""

    code = "XX2"
    name = "undecided"
    reads = frozenset({Quantity.OUTPUT})

    def check(self, trace):
        raise NotJudged("needs more steps")
        yield


def reasons(trace, *rules):
    return {item.rule: item.reason for item in diagnose(trace, rules).not_judged}


def test_a_broken_rule_is_reported_and_hides_nothing():
    found = reasons(trace_of(output_rms=[1.0]), Broken(), Undecided())
    assert found == {"broken": "the rule failed: ZeroDivisionError('by zero')", "undecided": "needs more steps"}


def test_a_rule_without_the_quantities_it_reads_is_not_judged():
    assert reasons(trace_of(weight_rms=[1.0]), Broken()) == {"broken": "the trace holds no output"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Broken, "`rules=`: Broken is the class of a rule; give the rule, `Broken()`."),
        ("GS301", "`rules=`: 'GS301' is no Rule; give instances, such as `DeadUnits()`."),
    ],
)
def test_what_is_no_rule_would_find_nothing_and_is_refused(given, said):
    with pytest.raises(UsageError) as caught:
        diagnose(trace_of(output_rms=[1.0]), [Undecided(), given])
    assert str(caught.value) == said


def test_without_steps_nothing_is_judged():
    assert reasons(trace_of(steps=0, output_rms=[1.0]), Broken()) == {"broken": "no step was recorded"}


def test_the_default_rules_are_all_that_are_installed():
    assert {"GS101", "GS504"} <= {rule.code for rule in default_rules()}


def test_judging_a_file_reads_what_the_rules_ask_for_and_loads_no_torch(tmp_path: Path):
    trace_of(output_rms=[1.0, 2.0], weight_rms=[1.0, 1.0], weight_grad_l2_norm=[1.0, 1.0]).save(tmp_path / "run.h5")
    program = """
import sys
from gradscope.rules.engine import diagnose
from gradscope.trace_file import read_trace
trace = read_trace(sys.argv[1])
diagnosis = diagnose(trace)
assert not any("failed" in one.reason for one in diagnosis.not_judged), diagnosis.not_judged
print("torch" in sys.modules, *sorted(trace.statistics.packed))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "run.h5"], capture_output=True, text=True, check=True
    )
    torch, *packed = done.stdout.split()
    assert torch == "False"
    assert {"min", "max", "mean", "abs_max", "zero_fraction", "spectral_radius"} <= set(packed)
    assert {"numel", "nonfinite_count"}.isdisjoint(packed)


def test_infinities_in_a_trace_warn_of_nothing():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        infinite = trace_of(
            weight_l2_norm=[np.inf] * 4, weight_grad_l2_norm=[np.inf] * 4, weight_update_l2_norm=[np.inf] * 4
        )
        found = diagnose(infinite)
    assert not caught
    assert not [one for one in found.not_judged if "failed" in one.reason]

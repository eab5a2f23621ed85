"""All scenarios together: complete, cheap to list, and as expected."""

import json
import pickle
import subprocess
import sys

import pytest

from gradscope.rules import RULES
from gradscope.scenarios import SCENARIOS
from gradscope.scenarios.base import EVERY_CODE, EXPLOSION, MISTAKES, STARVATION
from gradscope.scenarios.runner import read_settings, run, trace_name

EACH = pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])


def test_listing_the_scenarios_imports_neither_torch_nor_sklearn():
    code = (
        "import sys; from gradscope.scenarios import SCENARIOS; heavy = 'torch sklearn scipy joblib pandas h5py';"
        "print(len(SCENARIOS), [m for m in heavy.split() if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"{len(SCENARIOS)} []"


def test_the_seven_are_there():
    assert [scenario.name for scenario in SCENARIOS] == [
        "sigmoid-vs-relu", "plain-vs-residual", "hello-rnn", "rnn-vs-lstm", "truncated-bptt", "initialisation",
        "clipping",
    ]  # fmt: skip


@EACH
def test_a_scenario_is_complete(scenario):
    assert scenario.question.endswith("?")
    assert scenario.lesson.endswith(".")
    assert scenario.source
    files = {trace_name(variant.name, 0) for variant in scenario.variants}
    assert len(files) == len(scenario.variants)
    assert any(variant.forbid == EVERY_CODE for variant in scenario.variants), "no healthy variant"
    for variant in scenario.variants:
        assert variant.expect | variant.forbid <= EVERY_CODE
        assert not variant.expect & variant.forbid


@EACH
def test_defaults_lie_within_their_ranges(scenario):
    as_text = {name: str(value) for name, value in scenario.settings.items()}
    assert read_settings(scenario, as_text) == scenario.settings
    numbers = {name for name, value in scenario.settings.items() if not isinstance(value, str)}
    assert set(scenario.ranges) == numbers
    assert set(scenario.choices) == set(scenario.settings) - numbers


@EACH
def test_a_scenario_travels_to_another_process(scenario):
    there = pickle.loads(pickle.dumps(scenario))
    assert there.name == scenario.name
    assert [v.expect for v in there.variants] == [v.expect for v in scenario.variants]


@EACH
def test_a_single_step_gives_every_number_and_valid_json(scenario, tmp_path):
    result = run(scenario, seeds=[0], steps=1, settings={}, directory=tmp_path)
    for one in result.runs:
        assert list(one.metrics) == list(scenario.units)
        for name, value in one.metrics.items():
            format(value, scenario.units[name])
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [v["name"] for v in document["variants"]] == [v.name for v in scenario.variants]


def test_every_rule_is_expected_somewhere_or_forbidden_to_a_healthy_net():
    shown = {code for scenario in SCENARIOS for variant in scenario.variants for code in variant.expect}
    assert shown >= {"GS101", "GS201", "GS202", "GS302", "GS304", "GS305", "GS401", "GS503", "GS504"}
    assert {rule.code for rule in RULES} <= EVERY_CODE


def test_the_families_of_codes_are_apart():
    assert not EXPLOSION & STARVATION
    assert not (EXPLOSION | STARVATION) & MISTAKES
    assert EXPLOSION | STARVATION | MISTAKES < EVERY_CODE


@pytest.mark.slow
@EACH
def test_five_seeds_come_out_as_expected(scenario, tmp_path):
    result = run(scenario, seeds=range(5), steps=None, settings={}, directory=tmp_path, jobs=2)
    wrong = {
        (one.variant, one.seed): sorted(one.diagnosis.codes)
        for variant in scenario.variants
        for one in result.of(variant)
        if not variant.expect <= one.diagnosis.codes or variant.forbid & one.diagnosis.codes
    }
    assert not wrong
    assert result.as_expected

"""What holds for every rule."""

from dataclasses import fields

import numpy as np
import pytest
from builders import trace_of

from gradscope import plugins
from gradscope.errors import NotJudged
from gradscope.rules import RULES

SECTIONS = (
    "What it means:",
    "How it is measured:",
    "Why the threshold:",
    "What to try:",
    "Where it stays silent:",
    "Source:",
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_docstring_has_all_sections_in_order(rule):
    lines = rule.explanation().splitlines()
    starts = [next((i for i, line in enumerate(lines) if line.startswith(head)), -1) for head in SECTIONS]
    assert -1 not in starts
    assert starts == sorted(starts)
    assert lines[0].endswith(".")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_thresholds_are_numbers_with_a_default(rule):
    assert fields(rule)
    assert all(isinstance(getattr(rule(), field.name), int | float) for field in fields(rule))


def test_codes_and_names_are_unique_and_come_through_the_entry_point():
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert set(RULES) <= set(plugins.load("rules"))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.code != "GS401"], ids=lambda rule: rule.code)
def test_a_trace_with_nothing_to_judge_is_not_clean(rule):
    nothing = trace_of(steps=2, output_rms=[np.nan], weight_grad_l2_norm=[np.nan])
    with pytest.raises(NotJudged, match="need"):
        list(rule().check(nothing))

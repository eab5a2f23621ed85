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
NAMES = {
    "GS101": "vanishing-gradient",
    "GS102": "exploding-gradient",
    "GS103": "no-gradient",
    "GS104": "zero-loss-gradient",
    "GS201": "vanishing-through-time",
    "GS202": "exploding-through-time",
    "GS301": "dead-units",
    "GS302": "saturation",
    "GS303": "constant-output",
    "GS304": "forward-variance-collapse",
    "GS305": "forward-variance-explosion",
    "GS306": "attention-collapse",
    "GS307": "rank-collapse",
    "GS401": "non-finite",
    "GS402": "low-precision-underflow",
    "GS403": "low-precision-overflow",
    "GS501": "update-too-small",
    "GS502": "update-too-large",
    "GS503": "clipping-dominates",
    "GS504": "symmetric-init",
    "GS505": "accumulating-gradient",
    "GS601": "loss-divergence",
    "GS602": "loss-stall",
}  # as settings and reports of users write them


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


def test_codes_and_names_never_change_and_come_through_the_entry_point():
    assert {rule.code: rule.name for rule in RULES} == NAMES
    assert len(RULES) == len(NAMES)
    assert set(RULES) <= set(plugins.load("rules"))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.code != "GS401"], ids=lambda rule: rule.code)
def test_a_trace_with_nothing_to_judge_is_not_clean(rule):
    nothing = trace_of(steps=2, output_rms=[np.nan], weight_grad_l2_norm=[np.nan])
    with pytest.raises(NotJudged, match="need"):
        list(rule().check(nothing))

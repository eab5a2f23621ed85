from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gradscope import plugins
from gradscope.config import Config
from gradscope.errors import UsageError
from gradscope.findings import Finding
from gradscope.rules import RULES, DeadUnits
from gradscope.rules.base import Rule
from gradscope.rules.selection import chosen_rules, rules_named, selected
from gradscope.trace import Trace


def rule(code: str, name: str) -> Rule:
    def check(self: Rule, trace: Trace) -> Iterator[Finding]:
        yield from ()

    return type(name, (Rule,), {"code": code, "name": name, "reads": frozenset(), "check": check})()


A, B, C, OTHERS = rule("GS301", "a"), rule("GS302", "b"), rule("GS401", "c"), rule("AC1", "acme-d")
ALL_FOUR = (A, B, C, OTHERS)


@pytest.mark.parametrize(
    ("select", "ignore", "left"),
    [
        (["ALL"], [], ALL_FOUR),
        (["GS"], [], (A, B, C)),
        (["GS3", "AC"], [], (A, B, OTHERS)),
        (["b", "acme-d"], [], (B, OTHERS)),
        (["GS"], ["GS3"], (C,)),
        (["GS", "GS301"], ["GS3"], (A, C)),
        (["GS", "a"], ["GS3"], (A, C)),
        (["GS3"], ["GS3"], ()),
        (["GS301"], ["a"], ()),
        (["ALL"], ["acme-d", "GS40"], (A, B)),
        (["GS3"], ["ALL"], (A, B)),
        ([], [], ()),
    ],
)
def test_the_longest_word_wins_and_ignore_wins_ties(select, ignore, left):
    assert selected(ALL_FOUR, select=select, ignore=ignore) == left


def test_without_settings_every_installed_rule_is_asked():
    assert [type(one) for one in chosen_rules(Config(root=Path()))] == list(RULES)


def test_a_rule_has_the_thresholds_of_the_settings():
    config = Config(root=Path(), rules={"dead-units": {"warn_fraction": 0.3}}, select=("GS30",))
    assert DeadUnits(warn_fraction=0.3) in chosen_rules(config)
    assert {one.code for one in chosen_rules(config)} == {one.code for one in RULES if one.code.startswith("GS30")}


def test_no_rule_left_is_an_error_that_says_where_from():
    config = Config(root=Path(), select=("GS602",), ignore=("GS602",), origins={"select": "acme.toml [tool.gradscope]"})
    with pytest.raises(
        UsageError, match=r"select = \['GS602'\] \(acme.toml \[tool.gradscope\]\) ignore = \['GS602'\] \(default"
    ):
        chosen_rules(config)


def test_rules_are_named_without_settings():
    assert [one.code for one in rules_named(select=["dead-units", "GS50"], ignore=["GS501"])] == [
        "GS301",
        "GS502",
        "GS503",
        "GS504",
        "GS505",
    ]
    with pytest.raises(UsageError, match=r'^this call: `select = "GS1"` must be a list \(\["GS1"\]\)\.$'):
        rules_named(select="GS1")


def test_a_rule_that_does_not_take_its_threshold_says_so(monkeypatch):
    @dataclass(frozen=True)
    class Picky(DeadUnits):
        name = "picky"

        def __post_init__(self) -> None:
            if self.warn_fraction > self.error_fraction:
                raise ValueError("warn_fraction is above error_fraction")

    monkeypatch.setattr(plugins, "load", lambda kind: (Picky,))
    config = Config(root=Path(), rules={"picky": {"warn_fraction": 1.0}})
    with pytest.raises(UsageError, match=r"rule 'picky' does not take warn_fraction = 1.0: warn_fraction is above"):
        chosen_rules(config)

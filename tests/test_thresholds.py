from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from gradscope import plugins
from gradscope.thresholds import read_thresholds, refuse_no_rule
from gradscope.toml_table import Table


@dataclass(frozen=True)
class Odd:
    code: ClassVar[str] = "AC901"
    name: ClassVar[str] = "odd-things"

    min_steps: int = 3
    dead_fraction: float = 0.5
    growth: float = 2.0
    slope: float = -1.0
    rest: float = 0.0
    strict: bool = False
    unit: str = "decades"
    modes: list[str] = field(default_factory=list)


class Bare:
    code, name = "AC902", "bare-things"


@pytest.fixture(autouse=True)
def two_rules(monkeypatch):
    monkeypatch.setattr(plugins, "load", lambda kind: (Odd, Bare))


def read(values):
    mistakes = []
    return read_thresholds(Table(values, mistakes, path="rules.")), mistakes


def test_thresholds_are_stored_under_the_name_of_their_field():
    values = {"min-steps": 5, "dead-fraction": 1, "growth": 3, "slope": -2.5, "strict": True}
    found, mistakes = read({"odd-things": values})
    assert found == {"odd-things": {"min_steps": 5, "dead_fraction": 1.0, "growth": 3.0, "slope": -2.5, "strict": True}}
    assert type(found["odd-things"]["dead_fraction"]) is float
    assert mistakes == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("dead-fraction", 0.0), ("dead-fraction", 0.001), ("growth", 0.0), ("growth", 0.1), ("rest", 0.0)],
)
def test_the_ends_of_what_is_allowed(key, value):
    assert read({"odd-things": {key: value}}) == ({"odd-things": {key.replace("-", "_"): value}}, [])


@pytest.mark.parametrize(
    ("rule", "values", "mistake"),
    [
        ("odd-things", {"min-steps": 1.5}, "`rules.odd-things.min-steps = 1.5` must be a whole number, 0 or more"),
        ("odd-things", {"dead-fraction": 30}, "`rules.odd-things.dead-fraction = 30` must lie in 0 to 1"),
        ("odd-things", {"growth": -1}, "`rules.odd-things.growth = -1` must not be negative"),
        ("odd-things", {"rest": -0.1}, "`rules.odd-things.rest = -0.1` must not be negative"),
        ("odd-things", {"growth": "3"}, '`rules.odd-things.growth = "3"` must be a finite number'),
        ("odd-things", {"growth": True}, "`rules.odd-things.growth = true` must be a finite number"),
        ("odd-things", {"strict": 1}, "`rules.odd-things.strict = 1` must be true or false"),
        ("odd-things", {"unit": "x"}, '`rules.odd-things.unit = "x"` cannot be set here'),
        ("odd-things", {"modes": []}, "`rules.odd-things.modes = []` cannot be set here"),
        ("odd-things", {"growht": 1}, "`rules.odd-things.growht` is no setting (did you mean 'growth'?)"),
        ("odd-things", {"min_steps": 1}, "`rules.odd-things.min_steps` is no setting (did you mean 'min-steps'?)"),
        ("odd-things", 3, "`rules.odd-things = 3` must be a table"),
        ("bare-things", {"x": 1}, "`rules.bare-things.x` is no setting (none is known)"),
        ("AC901", {}, "`rules.AC901` is written by its name, `rules.odd-things`"),
        ("odd-thing", {}, "`rules.odd-thing` is no rule (did you mean 'odd-things'?)"),
    ],
)
def test_what_cannot_be_a_threshold_is_told(rule, values, mistake):
    _, mistakes = read({rule: values})
    assert mistakes == [mistake]


@pytest.mark.parametrize("selector", ["AC901", "AC", "A", "odd-things", "ALL"])
def test_installed_rules_can_be_named(selector):
    mistakes = []
    refuse_no_rule(Table({}, mistakes), "select", selector)
    assert mistakes == []


@pytest.mark.parametrize(
    ("selector", "way_out"),
    [
        ("AC9011", "(did you mean 'AC901'?)"),
        ("odd-thing", "(did you mean 'odd-things'?)"),
        ("", "(`gradscope rule --all` shows all)"),
        ("gs3", "(`gradscope rule --all` shows all)"),
    ],
)
def test_another_selector_is_told_with_a_way_out(selector, way_out):
    mistakes = []
    refuse_no_rule(Table({}, mistakes, path="--"), "select", selector)
    assert mistakes == [f"`--select` names {selector!r}, which is no rule and no beginning of codes {way_out}"]

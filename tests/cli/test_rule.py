import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gradscope.explanations import sections
from gradscope.findings import Finding
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.trace import Trace


@dataclass(frozen=True)
class Fading(Rule):
    """Things fade.

    What it means: less is left.
    What to try: more.
    """

    code = "GS901"
    name = "fading-things"
    reads = frozenset({Quantity.STATE, Quantity.OUTPUT})

    min_gain: float = 0.5
    at_all: bool = True
    most: float = float("inf")

    def check(self, trace: Trace) -> Iterator[Finding]:
        yield from ()


class Growing(Rule):
    """Things grow."""

    code = "GS902"
    name = "growing-things"
    reads = frozenset()

    def check(self, trace: Trace) -> Iterator[Finding]:
        yield from ()


@pytest.fixture(autouse=True)
def two_rules(installed):
    installed(rules=(Fading, Growing))


@pytest.mark.parametrize("name", ["GS901", "gs901", "fading-things", "Fading-Things"])
def test_a_rule_is_found_by_code_and_by_name(cli, name):
    outcome = cli("rule", name)
    assert outcome.code == 0
    assert outcome.out.startswith("GS901 fading-things\n")
    assert "What it means  less is left." in outcome.out
    assert "min-gain = 0.5" in outcome.out
    assert "growing" not in outcome.out


def test_how_a_rule_looks(cli):
    out = cli("rule", "GS901", "gain-drift").out
    assert [line.rstrip() for line in out.splitlines()] == [
        "GS901 fading-things",
        "  Things fade.",
        "",
        "  What it means  less is left.",
        "  What to try    more.",
        "  Thresholds     min-gain = 0.5, at-all = True, most = 'inf'",
        "",
        "gain-drift",
        "  The gradient's gain in a layer is not the baseline's any more.",
        "",
        "  The gate finds it, no rule: `gradscope check --baseline FILE --max-drift DECADES`.",
    ]


def test_all_rules(cli):
    out = cli("rule", "--all").out
    assert out.index("GS901") < out.index("GS902")
    assert "Things grow." in out


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("GS903", "did you mean 'GS90"),
        ("gs903", "did you mean 'GS90"),
        ("fadin-things", "did you mean 'fading-things'?"),
        ("xyz", "`gradscope list rules` shows all."),
    ],
)
def test_an_unknown_rule_is_quoted_with_the_nearest(cli, name, way_out):
    outcome = cli("rule", name)
    assert outcome.code == 2
    assert outcome.err.startswith(f"gradscope: {name!r} is no rule; ")
    assert way_out in outcome.err


@pytest.mark.parametrize("words", [(), ("GS901", "--all")])
def test_a_name_or_all_but_not_both(cli, words):
    outcome = cli("rule", *words)
    assert outcome.code == 2
    assert "`gradscope rule GS101`" in outcome.err


def test_a_docstring_is_read_by_paragraphs():
    text = "First.\n\nWhat it means: one\n    and more: so.\nWhat to try: two.\n\nLast\nlines."
    assert sections(text) == [
        ("", "First."),
        ("What it means", "one and more: so."),
        ("What to try", "two."),
        ("", "Last lines."),
    ]


def test_every_built_in_rule_is_explained(cli, monkeypatch):
    monkeypatch.undo()
    from gradscope.rules import RULES

    for one in RULES:
        out = cli("rule", one.code).out
        assert out.startswith(f"{one.code} {one.name}\n")
        assert "What to try" in out


def test_what_the_gate_finds_by_itself_is_explained(cli):
    outcome = cli("rule", "gain-drift")
    assert outcome.code == 0
    assert outcome.out.startswith("gain-drift\n  The gradient's gain in a layer")
    assert "--max-drift" in outcome.out


def test_a_rule_for_programs(cli):
    outcome = cli("rule", "GS901", "gain-drift", "--output-format", "json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == {
        "schema": "gradscope/rules/1",
        "rules": [
            {
                "code": "GS901",
                "name": "fading-things",
                "summary": "Things fade.",
                "installed": True,
                "sections": {"What it means": "less is left.", "What to try": "more."},
                "thresholds": [
                    {"name": "min-gain", "default": 0.5, "type": "float", "unit": "factor"},
                    {"name": "at-all", "default": True, "type": "bool"},
                    {"name": "most", "default": "inf", "type": "float"},
                ],
                "reads": ["output", "state"],
            },
            {
                "code": "gain-drift",
                "name": "gain-drift",
                "summary": "The gradient's gain in a layer is not the baseline's any more.",
                "installed": False,
                "sections": {},
                "thresholds": [],
                "reads": [],
            },
        ],
    }


def test_the_catalogue_for_programs_is_complete(cli, monkeypatch):
    monkeypatch.undo()
    from gradscope.rules import RULES

    rules = json.loads(cli("rule", "--all", "--output-format", "json").out)["rules"]
    assert [one["code"] for one in rules] == [one.code for one in RULES]
    for one in rules:
        assert one["summary"].endswith(".")
        assert one["installed"]
        assert {"What it means", "How it is measured", "What to try", "Source"} <= set(one["sections"])
        # those of recurrence read either of two quantities: of a layer's states, or of a loop that is written out
        assert one["reads"] or one["code"] in ("GS201", "GS202")
        assert all(threshold["type"] in ("float", "int") for threshold in one["thresholds"])

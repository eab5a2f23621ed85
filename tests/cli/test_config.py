import json

import pytest

from gradscope.rules import RULES
from gradscope.rules.dead_units import DeadUnits
from gradscope.rules.saturation import Saturation
from gradscope.rules.vanishing_gradient import VanishingGradient

TOML = """
[tool.gradscope]
select = ["GS"]
fail-on = "warning"
baseline = "known.json"
[tool.gradscope.rules.dead-units]
warn-fraction = 0.3
[[tool.gradscope.suppress]]
rule = "GS302"
module = "backbone.*"
reason = "pruned on purpose"
[[tool.gradscope.suppress]]
rule = "GS1"
module = ""
target = "enc*"
reason = "known"
[[tool.gradscope.check]]
name = "encoder"
model = "acme.models:build"
batch = "acme.data:batch"
loss = "torch.nn.functional:cross_entropy"
lr = 1e-3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(folder):
    path = folder / "pyproject.toml"
    path.write_text(TOML)
    return path


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_each_setting_stands_with_its_origin(cli, file):
    outcome = cli("config", "--ignore", "GS50,saturation")
    assert outcome.code == 0
    lines = rows(outcome.out)
    for line in (
        ["select", '["GS"]', "[tool.gradscope]"],
        ["ignore", '["GS50",', '"saturation"]', "command", "line"],
        ["fail-on", '"warning"', "[tool.gradscope]"],
        ["max-drift", "none", "default"],
        ["GS301", "dead-units", "asked"],
        ["GS302", "saturation", "ignored:", "saturation"],
        ["GS504", "symmetric-init", "ignored:", "GS50"],
        ["dead-units.warn-fraction", "0.3", "default", "0.75", "[tool.gradscope.rules.dead-units]"],
        ["GS302", "backbone.*", "every", "target", "pruned", "on", "purpose"],
        ["GS1", "(model)", "enc*", "known"],
        ["model", '"acme.models:build"', "[[tool.gradscope.check]]"],
        ["lr", "0.001", "[[tool.gradscope.check]]"],
        ["steps", "20", "default"],
    ):
        assert line in lines
    assert " ".join(lines[0]) == str(file)
    assert ["Target", "encoder"] in lines


def test_how_it_looks(cli, file, installed):
    installed(rules=(VanishingGradient, DeadUnits, Saturation))
    out = cli("config", "--select", "GS301").out
    assert [line.rstrip() for line in out.split("\n\n", 1)[1].splitlines()] == [
        '  select     ["GS301"]     command line',
        "  ignore     []            default",
        '  fail-on    "warning"     [tool.gradscope]',
        '  baseline   "known.json"  [tool.gradscope]',
        "  max-drift  none          default",
        "",
        "Rules",
        "  GS101  vanishing-gradient  not selected",
        "  GS301  dead-units          asked",
        "  GS302  saturation          not selected",
        "",
        "Thresholds",
        "  dead-units.warn-fraction  0.3  default 0.75  [tool.gradscope.rules.dead-units]",
        "",
        "Suppressed",
        "  GS302  backbone.*  every target  pruned on purpose",
        "  GS1    (model)     enc*          known",
        "",
        "Target encoder",
        '  model      "acme.models:build"                  [[tool.gradscope.check]]',
        '  batch      "acme.data:batch"                    [[tool.gradscope.check]]',
        '  loss       "torch.nn.functional:cross_entropy"  [[tool.gradscope.check]]',
        "  optimizer  none                                 default",
        "  lr         0.001                                [[tool.gradscope.check]]",
        "  steps      20                                   default",
        "  seeds      1                                    default",
        '  device     "cpu"                                default',
    ]


def test_without_a_file_all_is_default(cli, folder):
    out = cli("config").out
    assert out.replace("\n", " ").startswith(f"no [tool.gradscope] from {folder} upwards: all settings are defaults")
    assert ["select", '["ALL"]', "default"] in rows(out)
    assert "Thresholds" not in out
    assert "Suppressed" not in out
    assert out.count(" asked") == len(RULES)


def test_an_empty_table_is_a_file_too(cli, file):
    file.write_text("[tool.gradscope]\n")
    assert cli("config").out.splitlines()[0] == str(file)


def test_nothing_is_wider_than_the_terminal(cli, file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, cli("config").out.splitlines()[1:])) <= 80


def test_for_programs(cli, file, folder):
    document = json.loads(cli("config", "--max-drift", "0.5", "--select", "GS3", "--output-format", "json").out)
    here = f"{file} [tool.gradscope]"
    assert document["schema"] == "gradscope/config/1"
    assert document["file"] == str(file)
    assert document["settings"] == {
        "select": {"value": ["GS3"], "origin": "command line"},
        "ignore": {"value": [], "origin": "default"},
        "fail-on": {"value": "warning", "origin": here},
        "baseline": {"value": str(folder / "known.json"), "origin": here},
        "max-drift": {"value": 0.5, "origin": "command line"},
    }
    dead = document["rules"]["dead-units"]
    assert dead["asked"]
    assert dead["thresholds"]["warn-fraction"] == {
        "value": 0.3,
        "default": 0.75,
        "origin": f"{file} [tool.gradscope.rules.dead-units]",
    }
    assert dead["thresholds"]["min-steps"] == {"value": 3, "default": 3, "origin": "default"}
    assert {name for name, rule in document["rules"].items() if rule["asked"]} == {
        rule.name for rule in RULES if rule.code.startswith("GS3")
    }
    assert document["suppress"][0] == {
        "rule": "GS302",
        "module": "backbone.*",
        "target": "*",
        "reason": "pruned on purpose",
        "origin": f"{file} [[tool.gradscope.suppress]]",
    }
    (target,) = document["check"]
    assert target["name"] == "encoder"
    assert target["lr"] == {"value": 0.001, "origin": f"{file} [[tool.gradscope.check]]"}
    assert target["device"] == {"value": "cpu", "origin": "default"}


def test_settings_that_are_wrong_are_told(cli, file):
    file.write_text("[tool.gradscope]\nselct = ['GS']\n")
    outcome = cli("config")
    assert outcome.code == 2
    assert outcome.err == (
        "gradscope: pyproject.toml: [tool.gradscope] has one mistake: `selct` is no setting (did you mean 'select'?).\n"
    )

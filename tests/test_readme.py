"""The README is true: its programs run, its tables name what is installed, its commands exist."""

import re
from pathlib import Path

import matplotlib
import pytest
from rich.console import Console

from gradscope.rules import RULES
from gradscope.scenarios import SCENARIOS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_programs_run_and_find_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    console = Console(width=100, no_color=True)
    for shown, name in zip(blocks("text"), ("diagnosis", "forgetful"), strict=True):
        with console.capture() as capture:
            console.print(names[name])
        heads = [line for line in shown.splitlines() if re.match(r"(error|warning|info) GS\d|  hence", line)]
        assert heads
        for line in heads:  # the wording and the place; the last digits are the machine's
            code, module = re.search(r"(GS\d+ [a-z-]+)\s+(\S+)", line).groups()  # type: ignore[union-attr]
            assert re.search(rf"{code}\s+{re.escape(module)}", capture.get())
    assert (tmp_path / "run.h5").exists()


def test_every_rule_and_every_scenario_is_in_its_table() -> None:
    for rule in RULES:
        assert f"| {rule.code} | {rule.name} |" in README
    for scenario in SCENARIOS:
        assert f"| `{scenario.name}` | {scenario.question} |" in README


def test_the_test_command_stands_alone_on_its_line() -> None:
    assert "pip install '.[test]' && pytest" in README.splitlines()

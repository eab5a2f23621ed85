"""The README is true: its programs run, its tables name what is installed, its commands exist."""

import re
from pathlib import Path

import matplotlib
import pytest
import torch
from rich.console import Console

from gradscope.cli import main
from gradscope.config import read_config
from gradscope.rules import RULES
from gradscope.scenarios import SCENARIOS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def readers_own() -> dict[str, object]:
    """What the README takes for the reader's own: a Lightning module and its data, a language model and its tokens."""
    from lightning.pytorch import LightningModule
    from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 1)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.fc(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    rows = torch.zeros(4, 8, dtype=torch.long)
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 8, "n_positions": 8}
    return {
        "module": Module(),
        "data": torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2),
        "language_model": GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)),
        "arguments": TrainingArguments(use_cpu=True, report_to=[], max_steps=2, save_strategy="no"),
        "tokens": [{"input_ids": row, "labels": row} for row in rows],
    }


# of Lightning: how it looks at torch 2.13, and that a tiny run is tiny
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*pin_memory.* argument is set as true")
def test_the_programs_run_and_find_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    matplotlib.use("Agg")
    names = readers_own()
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
    assert "`gradscope diff run.h5 mended.h5` says:" in README
    capsys.readouterr()
    assert main(["diff", "run.h5", "mended.h5"]) == 0
    (shown,) = blocks("diff")
    printed, shown_too = (words_of(text) for text in (capsys.readouterr().out, shown))
    assert shown_too <= printed
    assert len(shown_too) > 15


def words_of(text: str) -> set[str]:
    """Its lines but those of tables, whose digits and order are the machine's, without digits."""
    return {re.sub(r"\d+", "0", line) for line in text.splitlines() if not line.endswith(" decades")}


def test_every_rule_and_every_scenario_is_in_its_table() -> None:
    for rule in RULES:
        assert f"| {rule.code} | {rule.name} |" in README
    for scenario in SCENARIOS:
        assert f"| `{scenario.name}` | {scenario.question} |" in README


def test_the_test_command_stands_alone_on_its_line() -> None:
    assert "pip install '.[test]' && pytest" in README.splitlines()


def test_the_settings_that_are_shown_are_accepted(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    (tmp_path / "pyproject.toml").write_text(shown, encoding="utf-8")
    config = read_config(start=tmp_path)
    assert [target.name for target in config.checks] == ["encoder"]
    assert config.rules == {"dead-units": {"warn_fraction": 0.5}}
    assert config.baseline == tmp_path / "gradscope-baseline.json"

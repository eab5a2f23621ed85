from pathlib import Path

import click
import pytest

from gradscope.cli.settings import settings_of, settings_options
from gradscope.config import Config
from gradscope.errors import UsageError


@click.command()
@settings_options
@click.pass_context
def command(ctx: click.Context) -> Config:
    return settings_of(ctx)


def settings(*words: str) -> Config:
    return command.main(list(words), standalone_mode=False)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.gradscope]\nselect = ["GS1"]\nfail-on = "warning"\n')
    (tmp_path / "other.toml").write_text('[tool.gradscope]\nselect = ["GS2"]\n')
    return tmp_path


def test_without_options_the_file_holds():
    config = settings()
    assert config.select == ("GS1",)
    assert config.fails_on == "warning"


def test_another_file_can_be_named():
    assert settings("--config", "other.toml").select == ("GS2",)


def test_options_override_the_file(folder):
    config = settings(
        "--select", "GS3, GS4", "--select", "GS101", "--ignore", "GS301", "--fail-on", "info",
        "--baseline", "known.json", "--max-drift", "0.5",
    )  # fmt: skip
    assert config.select == ("GS3", "GS4", "GS101")
    assert config.ignore == ("GS301",)
    assert config.fails_on == "info"
    assert config.baseline == folder / "known.json"
    assert config.max_drift == 0.5
    assert {config.origin(key) for key in ("select", "ignore", "fail-on", "baseline", "max-drift")} == {"command line"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--select", ""), "`--select` names ''"),
        (("--select", "GS1,"), "`--select` names ''"),
        (("--ignore", "dead-unit"), "did you mean 'dead-units'"),
        (("--max-drift", "-1"), "`--max-drift -1.0` must be above 0."),
        (("--config", "none.toml"), "'none.toml' cannot be read"),
    ],
)
def test_what_cannot_be_is_told(words, sentence):
    with pytest.raises(UsageError) as caught:
        settings(*words)
    assert sentence in str(caught.value)


def test_nothing_is_remembered_from_call_to_call():
    settings("--select", "GS3")
    assert settings().select == ("GS1",)
    assert Path("pyproject.toml").exists()

"""The hook that this repository offers to pre-commit, in a user's repository."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import gradscope

HOOKS = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"

MODELS = """
import torch
from torch import nn


def build():
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.constant_(net[0].bias, BIAS)
    return net


def batch():
    x = torch.randn(32, 4)
    return x, (x[:, 0] > 0).long()
"""

SETTINGS = """
[[tool.gradscope.check]]
name = "net"
model = "models:build"
batch = "models:batch"
loss = "torch.nn.functional:cross_entropy"
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in the user's repository, where `gradscope` is that of this checkout."""
    program = tmp_path / "bin" / "gradscope"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradscope "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PRE_COMMIT"))}
    environment |= {
        "PATH": os.pathsep.join([str(program.parent), environment["PATH"]]),
        "PYTHONPATH": str(Path(gradscope.__file__).parents[1]),
        "PRE_COMMIT_HOME": str(tmp_path / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "user", f"GIT_{who}_EMAIL": "user@localhost"}

    def at(folder: str, *command: str) -> subprocess.CompletedProcess[str]:
        where = tmp_path / folder
        return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=240)

    return at


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_hook_fails_for_a_sick_model_and_passes_for_a_healthy_one(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pre_commit")
    (tmp_path / "offered").mkdir()
    shutil.copy(HOOKS, tmp_path / "offered")
    user = tmp_path / "user"
    user.mkdir()
    (user / "models.py").write_text(MODELS.replace("BIAS", "-10.0"))
    (user / "pyproject.toml").write_text(SETTINGS)
    (user / "notes.txt").write_text("no model\n")
    for folder in ("offered", "user"):
        for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "first"]):
            assert run(folder, "git", *words).returncode == 0

    def hook(*words: str) -> subprocess.CompletedProcess[str]:
        return run("user", sys.executable, "-m", "pre_commit", "try-repo", "../offered", "gradscope-check", *words)

    sick = hook("--all-files")
    assert sick.returncode == 1
    assert "- hook id: gradscope-check\n- exit code: 1\n" in sick.stdout
    assert "error GS301 dead-units  1" in sick.stdout
    assert sick.stdout.count("net  failed") == 1  # once, however many files there are
    assert "[WARNING]" not in sick.stdout + sick.stderr

    other = hook("--files", "notes.txt")
    assert other.returncode == 0
    assert "(no files to check)Skipped" in other.stdout

    (user / "models.py").write_text(MODELS.replace("BIAS", "0.0"))
    healthy = hook("--files", "models.py")
    assert healthy.returncode == 0, healthy.stdout
    assert "Passed" in healthy.stdout


def test_the_hook_is_the_gate_in_the_users_environment() -> None:
    (hook,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    assert (hook["id"], hook["entry"], hook["language"]) == ("gradscope-check", "gradscope check", "system")
    assert hook["pass_filenames"] is False


def test_the_readme_shows_it() -> None:
    readme = (HOOKS.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = [text for text in readme.split("```yaml\n")[1:] if text.startswith("repos:")]
    ((repository,),) = (yaml.safe_load(shown.partition("```")[0])["repos"],)
    (hook,) = repository["hooks"]
    (offered,) = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    assert hook["id"] == offered["id"]
    assert set(hook["stages"]) <= set(offered["stages"])

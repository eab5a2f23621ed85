"""The GitHub action: what it declares, and its scripts, run as a runner would in a user's repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import gradscope

CHECKOUT = Path(__file__).parents[2]
FILE = CHECKOUT / ".github" / "actions" / "check" / "action.yml"
TEXT = FILE.read_text(encoding="utf-8")
ACTION = yaml.safe_load(TEXT)
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

MODELS = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.fc1 = nn.Linear(4, 16)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(16, 3)
        nn.init.constant_(self.fc1.bias, bias)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def sick():
    return Net(-10.0)


def healthy():
    return Net(0.0)


def batch():
    x = torch.randn(32, 4)
    return x, (x[:, 0] > 0).long()
"""

TARGET = """
[[tool.gradscope.check]]
name = "{name}"
model = "models:{name}"
batch = "models:batch"
loss = "torch.nn.functional:cross_entropy"
"""


@dataclass
class Done:
    """What a step has left: exit code, log, outputs and summary."""

    code: int
    log: str
    outputs: dict[str, str]
    summary: str


def run(step: str, workspace: Path, **inputs: str) -> Done:
    """Runs the script of a step as `shell: bash` does, with these inputs and the defaults of the others."""
    values = {name: str(about["default"]) for name, about in ACTION["inputs"].items()}
    values |= {name.replace("_", "-"): value for name, value in inputs.items()}

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)

    files = {name: workspace.parent / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("")
    script = workspace.parent / "step.sh"
    script.write_text(STEPS[step]["run"])
    environment = {
        **os.environ,
        **{name: filled(text) for name, text in STEPS[step]["env"].items()},
        **{name: str(file) for name, file in files.items()},
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(workspace),
        "PYTHONPATH": str(Path(gradscope.__file__).parents[1]),
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=workspace / filled(STEPS[step]["working-directory"]),
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return Done(done.returncode, done.stdout + done.stderr, outputs, files["GITHUB_STEP_SUMMARY"].read_text())


def check(workspace: Path, **inputs: str) -> Done:
    return run("gradscope check", workspace, python=sys.executable, **inputs)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's repository with a healthy and a sick target, in a folder with a blank."""
    project = tmp_path / "work" / "my project"
    project.mkdir(parents=True)
    (project.parent / ".git").mkdir()
    (project / "models.py").write_text(MODELS)
    (project / "pyproject.toml").write_text(TARGET.format(name="healthy") + TARGET.format(name="sick"))
    return project.parent


# ---------------------------------------------------------------- what it declares


def test_every_input_is_declared_explained_and_used() -> None:
    used = set(re.findall(r"\binputs\.([\w-]+)", TEXT))
    assert used == set(ACTION["inputs"])
    assert all(about["description"] and "default" in about for about in ACTION["inputs"].values())


def test_every_output_comes_from_a_step_that_writes_it() -> None:
    ids = {step["id"]: step["run"] for step in STEPS.values() if "id" in step}
    for about in ACTION["outputs"].values():
        step, name = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.([\w-]+) \}\}", about["value"]).groups()  # type: ignore[union-attr]
        assert f"{name}=" in ids[step]


def test_what_a_user_gives_never_enters_the_text_of_a_script() -> None:
    scripts = [step for step in STEPS.values() if "run" in step]
    assert len(scripts) == 2
    for step in scripts:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
        assert re.findall(r"\$\{?\w+", step["run"])
        for name in step["env"]:
            uses = re.findall(rf".\${name}\b", step["run"])
            assert uses, name


def test_the_upload_waits_for_a_file_and_for_the_users_wish_also_after_findings() -> None:
    step = STEPS["Upload to code scanning"]
    assert step["uses"].startswith("github/codeql-action/upload-sarif@v")
    for condition in ("!cancelled()", "inputs.upload-sarif == 'true'", "steps.check.outputs.sarif != ''"):
        assert condition in step["if"]
    assert step["with"]["sarif_file"] == "${{ steps.check.outputs.sarif }}"


def test_the_readme_uses_it_as_it_is() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (shown,) = [text for text in readme.split("```yaml\n")[1:] if text.startswith("permissions:")]
    job = yaml.safe_load(shown.partition("```")[0])
    (step,) = [step for step in job["steps"] if "gradscope" in step.get("uses", "")]
    assert f"/{FILE.parent.relative_to(CHECKOUT).as_posix()}@" in step["uses"]
    assert set(step["with"]) <= set(ACTION["inputs"])


# ---------------------------------------------------------------- what it does


@pytest.mark.slow
def test_findings_are_annotated_summed_up_written_as_sarif_and_fail_the_job(workspace: Path) -> None:
    done = check(workspace, working_directory="my project", targets="sick")
    assert done.code == 1, done.log
    (annotation,) = re.findall(r"^::error .*$", done.log, flags=re.M)
    line = MODELS.splitlines().index("        self.act = nn.ReLU()") + 1
    assert f"file=my project/models.py,line={line}," in annotation
    assert "GS301 dead-units" in annotation
    assert "error GS301 dead-units  act" in done.log  # for whoever reads the log
    assert "GS301" in done.summary
    sarif = workspace / "my project" / "gradscope.sarif"
    assert done.outputs == {"exit-code": "1", "sarif": str(sarif)}
    results = json.loads(sarif.read_text())["runs"][0]["results"]
    assert "GS301" in {result["ruleId"] for result in results}


def test_a_healthy_trace_passes_with_what_else_was_asked_for(workspace: Path) -> None:
    names: dict[str, Any] = {"__name__": "models"}
    exec(MODELS, names)
    model, loss = names["healthy"](), torch.nn.functional.cross_entropy
    with gradscope.attach(model, optimizer=(optimizer := torch.optim.Adam(model.parameters()))) as scope:
        for _ in range(10):
            x, y = names["batch"]()
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    scope.trace.save(workspace / "my project" / "a run.h5")
    arguments = "--fail-on error --output-format json -o 'a report.json'"
    inputs = {"targets": "'a run.h5'\n", "arguments": arguments, "sarif": ""}
    done = check(workspace, working_directory="my project", **inputs)
    assert done.code == 0, done.log
    assert done.outputs == {"exit-code": "0"}
    assert "::error" not in done.log
    assert json.loads((workspace / "my project" / "a report.json").read_text())["fail_on"] == "error"


@pytest.mark.parametrize("text", ["healthy; touch spoilt", "$(touch spoilt)", "`touch spoilt`", "' > spoilt"])
def test_what_a_user_gives_is_never_run(workspace: Path, text: str) -> None:
    done = check(workspace, working_directory="my project", targets=text)
    assert done.code == 2
    assert done.outputs == {"exit-code": "2"}
    assert "Traceback" not in done.log or "No closing quotation" in done.log
    assert not (workspace / "my project" / "spoilt").exists()


def test_misuse_is_2_and_an_old_sarif_is_not_taken_for_a_new_one(workspace: Path) -> None:
    (workspace / "my project" / "gradscope.sarif").write_text("{}")
    done = check(workspace, working_directory="my project", targets="sick", baseline="no such.json")
    assert done.code == 2
    assert done.outputs == {"exit-code": "2"}
    assert "no such.json" in done.log


def test_an_interpreter_without_gradscope_is_said(workspace: Path) -> None:
    done = run("gradscope check", workspace, python="/bin/false")
    assert done.code == 2
    assert "::error title=gradscope check::gradscope is not installed" in done.log


def test_what_is_to_be_installed_goes_to_pip_word_by_word(workspace: Path) -> None:
    python = workspace / "my project" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > words\n')
    python.chmod(0o755)
    done = run("Install", workspace, working_directory="my project", install=". -r\nneeds.txt", python="./python")
    assert done.code == 0, done.log
    assert (python.parent / "words").read_text().split("\n") == ["-m", "pip", "install", ".", "-r", "needs.txt", ""]

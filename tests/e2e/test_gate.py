"""The gate from a user's folder: a package with one model for each fault, every format, and a baseline's life.

The first part runs `gradscope` as a user does, in a process of its own that sees nothing of gradscope but what is
installed; the rest calls the command line in this process.
"""

import json
import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gradscope.cli import main

MODELS = """\
import torch
from torch import nn


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x - 1.0)


class Net(nn.Module):
    def __init__(self, depth=3, detached=False, last=nn.ReLU):
        super().__init__()
        self.stem = nn.Linear(8, 32)
        self.act = nn.ReLU()
        self.body = nn.Sequential()
        for i in range(depth):
            self.body.add_module(f"fc{i}", nn.Linear(32, 32))
            self.body.add_module(f"act{i}", nn.ReLU())
        self.side = nn.Linear(32, 32)
        self.last = last()
        self.head = nn.Linear(32, 3)
        self.detached = detached

    def forward(self, x):
        x = self.body(self.act(self.stem(x)))
        side = self.side(x)
        return self.head(self.last(x + (side.detach() if self.detached else side)))


def healthy():
    return Net()


def dead():
    net = Net()
    nn.init.constant_(net.body.fc1.bias, -10.0)
    return net


def dead_twice():
    net = dead()
    nn.init.constant_(net.stem.bias, -10.0)
    return net


def exploding():
    net = Net(depth=9)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=3 * (2 / layer.in_features) ** 0.5)
    return net


def detached():
    return Net(detached=True)


def nan():
    return Net(last=Log)


def batch(step):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
"""

# The fault, the code of its root, the module that is named, and a line of the file where that module is written.
FAULTS = {
    "dead": ("GS301", "body.act1", 'self.body.add_module(f"act{i}", nn.ReLU())'),
    "exploding": ("GS305", "stem", "self.stem = nn.Linear(8, 32)"),
    "detached": ("GS103", "side", "self.side = nn.Linear(32, 32)"),
    "nan": ("GS401", "last", "self.last = last()"),
}
TARGETS = ("healthy", *FAULTS)


def write_package(folder: Path, *targets: str, head: str = "") -> None:
    (folder / "acme").mkdir()
    (folder / "acme" / "__init__.py").write_text("")
    (folder / "acme" / "models.py").write_text(MODELS)
    tables = "".join(
        textwrap.dedent(f"""
        [[tool.gradscope.check]]
        name = "{name}"
        model = "acme.models:{name}"
        batch = "acme.models:batch"
        loss = "torch.nn.functional:cross_entropy"
        optimizer = "torch.optim:AdamW"
        lr = 1e-3
        steps = 20
        """)
        for name in targets
    )
    (folder / "pyproject.toml").write_text(f"[tool.gradscope]\n{head}{tables}")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """All targets in all formats, by one call."""
    folder = tmp_path_factory.mktemp("user")
    write_package(folder, *TARGETS)
    command = [sys.executable, "-I", "-m", "gradscope", "check", "--output-format", "github", "--output-format", "text"]
    for file in ("out.json", "out.xml", "out.sarif", "out.md"):
        command += ["-o", file]
    command += ["--output-format", "gitlab", "-o", "quality.gitlab"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GITHUB"))}
    environment |= {"COLUMNS": "100", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return run, folder


def line_of(text: str) -> int:
    return 1 + next(i for i, line in enumerate(MODELS.splitlines()) if text in line)


@pytest.mark.slow
def test_the_text_names_every_fault_and_passes_the_healthy_one(judged) -> None:
    run, _ = judged
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert "healthy    passed" in run.stdout
    for name, (code, module, _) in FAULTS.items():
        assert f"{name:9}  failed" in run.stdout
        assert f"error {code}" in run.stdout
        assert module in run.stdout
    assert "in 4 of 5 targets" in run.stdout.splitlines()[-1] or "in 4 of 5 targets" in run.stdout


@pytest.mark.slow
def test_json_has_each_root_at_its_module(judged) -> None:
    document = json.loads((judged[1] / "out.json").read_text())
    assert document["schema"] == "gradscope/diagnosis/1"
    assert document["ok"] is False
    assert [(one["name"], one["ok"]) for one in document["targets"]] == [(name, name == "healthy") for name in TARGETS]
    roots = {(f["target"], f["code"], f["module"]) for f in document["findings"] if f["role"] == "root"}
    assert roots == {(name, code, module) for name, (code, module, _) in FAULTS.items()}


@pytest.mark.slow
def test_sarif_has_file_line_module_and_fingerprint(judged) -> None:
    (run,) = json.loads((judged[1] / "out.sarif").read_text())["runs"]
    assert len({result["partialFingerprints"]["gradscope/v1"] for result in run["results"]}) == len(run["results"])
    for name, (code, module, source) in FAULTS.items():
        (result,) = [
            result
            for result in run["results"]
            if result["ruleId"] == code
            and result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == module
            and name in json.dumps(result)
        ]
        physical = result["locations"][0]["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "acme/models.py"
        assert physical["region"]["startLine"] == line_of(source)
        assert result["level"] == "error"


@pytest.mark.slow
def test_junit_github_gitlab_and_markdown_have_them_too(judged) -> None:
    run, folder = judged
    suites = {suite.get("name"): suite for suite in ET.parse(folder / "out.xml").getroot().iter("testsuite")}
    annotations = [line for line in run.stdout.splitlines() if line.startswith("::error ")]
    quality = json.loads((folder / "quality.gitlab").read_text())
    markdown = (folder / "out.md").read_text()
    assert (folder / "summary.md").read_text().strip()
    assert not list(suites["healthy"].iter("failure"))
    for name, (code, module, source) in FAULTS.items():
        assert any(code in str(failure.attrib) + str(failure.text) for failure in suites[name].iter("failure"))
        assert any(code in line and module in line for line in annotations)
        assert any(f"line={line_of(source)}" in line and "file=acme/models.py" in line for line in annotations)
        assert any(
            item["check_name"].startswith(code)
            and item["location"] == {"path": "acme/models.py", "lines": {"begin": line_of(source)}}
            for item in quality
        )
        assert code in markdown
        assert module in markdown


# ---------------------------------------------------------------- in this process


@pytest.fixture
def user(tmp_path: Path, unknown_acme: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_alone_has_its_exit_code(user: Path, name: str) -> None:
    write_package(user, *TARGETS)
    assert main(["check", name]) == int(name != "healthy")


def test_a_model_without_any_settings(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_package(user)
    words = ["--batch", "acme.models:batch", "--loss", "torch.nn:CrossEntropyLoss", "--lr", "0.001"]
    assert main(["check", "--model", "acme.models:healthy", *words]) == 0
    assert main(["check", "--model", "acme.models:dead", *words]) == 1
    assert "GS301 dead-units  body.act1" in capsys.readouterr().out


def test_after_the_baseline_is_written_only_a_second_fault_fails(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(user, "dead", "detached", head='baseline = "known.json"\n')
    assert main(["check", "--write-baseline", "known.json"]) == 0
    assert main(["check"]) == 0
    models = user / "acme" / "models.py"
    models.write_text(MODELS.replace("def dead():\n    net = Net()", "def dead():\n    net = Net(detached=True)"))
    del sys.modules["acme.models"]
    capsys.readouterr()
    assert main(["check"]) == 1
    said = capsys.readouterr().out
    assert "GS103 no-gradient  side" in said
    assert "failed: 1 error in 1 of 2 targets" in said
    models.write_text(MODELS.replace("-10.0", "0.0"))
    del sys.modules["acme.models"]
    assert main(["check", "dead"]) == 0
    assert "are gone" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_verdict_and_seeds_are_told(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(user, "dead")
    said = []
    for file in ("one.json", "other.json"):
        assert main(["check", "dead", "--seeds", "2", "-o", file]) == 1
        document = json.loads((user / file).read_text())
        for target in document["targets"]:
            assert target["seeds"] == [0, 1]
            target.pop("duration_s")
        said.append(document)
    assert said[0] == said[1]
    assert "Seen with seeds 0, 1 (2 of 2)." in said[0]["findings"][0]["message"]


def test_a_broken_target_does_not_hide_the_others_and_shows_the_users_traceback(
    user: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(user, "healthy", "dead")
    models = user / "acme" / "models.py"
    models.write_text(
        MODELS.replace("def healthy():\n    return Net()", "def healthy():\n    return Net(last=nn.Linear)")
    )
    assert main(["check"]) == 2
    outcome = capsys.readouterr()
    assert "acme/models.py" in outcome.err
    assert "TypeError" in outcome.err
    assert f"gradscope{os.sep}trial" not in outcome.err
    assert outcome.err.splitlines()[-1] == "gradscope: in the making of the model"
    assert "the making of the model failed at acme/models.py:" in outcome.out
    assert "GS301" in outcome.out


def test_what_the_users_code_prints_does_not_spoil_the_document(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_package(user, "healthy")
    models = user / "acme" / "models.py"
    models.write_text(
        MODELS.replace(
            "def batch(step):\n", 'def batch(step):\n    import os\n    print("noise")\n    os.system("echo more")\n'
        )
    )
    assert main(["check", "--output-format", "json", "--steps", "3"]) == 0
    outcome = capfd.readouterr()
    assert json.loads(outcome.out)["ok"] is True
    assert outcome.err.count("noise") == 3
    assert outcome.err.count("more") == 3

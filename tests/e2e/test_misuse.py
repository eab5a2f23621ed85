"""`gradscope check` used wrongly, from a user's folder: exit code 2, and one sentence that helps.

The sentence quotes what the user wrote; of a traceback only the user's own lines are shown, and those only where it was
the user's code that failed.
"""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

MODELS = """
import torch
from torch import nn

made = 0

def build():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

def wants_width(width):
    return nn.Linear(width, 3)

def nothing():
    build()

def text():
    return "a model"

def raising():
    raise RuntimeError("no weights at /data/weights.pt")

def leaving():
    raise SystemExit(3)

def frozen():
    return build().requires_grad_(False)

def bare():
    return nn.ReLU()

class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return {"logits": self.layer(x)}

class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return x[:, :3]

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) + self.bias_that_is_not

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x)
"""
DATA = """
import torch

def batch():
    return torch.randn(16, 4), torch.randint(3, (16,))

def empty():
    return torch.randn(0, 4), torch.randint(3, (0,))

def one():
    return torch.randn(1, 4), torch.randint(3, (1,))

def alone():
    return torch.randn(16, 4)

def triple():
    return torch.randn(16, 4), torch.randint(3, (16,)), 7

def nothing():
    pass

def no_batches():
    return []

def raising():
    return open("no-such-file.csv")

def wants_two(path, split):
    return path

def uneven():
    return torch.randn(16, 4), torch.randint(3, (15,))

pair = batch()
number = 3
"""
LOSSES = """
import torch
from torch.nn import functional as F

def elementwise(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")

def number(outputs, targets):
    return 1.0

def nothing(outputs, targets):
    F.cross_entropy(outputs, targets)

def imaginary(outputs, targets):
    return outputs.sum() * 1j

def cut(outputs, targets):
    return F.cross_entropy(outputs.detach(), targets)

def three(outputs, targets, weights):
    return F.cross_entropy(outputs, targets)
"""
OPTIMIZERS = """
import torch
from torch import nn

def no_optimizer(parameters):
    return list(parameters)

def of_others(parameters):
    return torch.optim.SGD(nn.Linear(4, 4).parameters(), lr=0.1)

def without_lr(parameters):
    return torch.optim.SGD(parameters, lr=0.1)

def wants_two(parameters, schedule):
    return torch.optim.SGD(parameters, lr=0.1)
"""
SCRIPTS = {
    "crash.py": "import torch\nraise ValueError('the data set is gone')\n",
    "idle.py": "import torch\nprint('nothing is trained here')\n",
    "leaves.py": "import sys\nsys.exit('no data')\n",
}
TARGET = {
    "name": "net",
    "model": "acme.models:build",
    "batch": "acme.data:batch",
    "loss": "torch.nn.functional:cross_entropy",
}


def toml(settings: str = "", **changes: object) -> str:
    """A pyproject.toml with `settings` and one target; None takes a key of it away."""
    values = {key: value for key, value in ({**TARGET, "steps": 3} | changes).items() if value is not None}
    return f"[tool.gradscope]\n{settings}\n[[tool.gradscope.check]]\n" + "".join(
        f"{key} = {value if not isinstance(value, str) else repr(value)}\n" for key, value in values.items()
    )


def options(**changes: object) -> list[str]:
    """`--model …` and so on, in place of a target."""
    values = {key: value for key, value in TARGET.items() if key != "name"} | {"steps": 3} | changes
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


# what is written in pyproject.toml, the words after `check`, what the sentence has
SETTINGS = {
    "no targets": ("", [], ["nothing to check", "[[tool.gradscope.check]]"]),
    "misspelt setting": (toml("selct = ['GS']"), [], ["`selct`", "did you mean 'select'"]),
    "misspelt key of a target": (toml(optimiser="torch.optim:SGD"), [], ["`optimiser`", "'net'", "'optimizer'"]),
    "misspelt table": ("[[tool.gradscope.checks]]\n", [], ["`checks`", "did you mean 'check'"]),
    "one table for several": ("[tool.gradscope.check]\nname='a'\n", [], ["[[tool.gradscope.check]]"]),
    "select is no list": (toml("select = 'GS1'"), [], ['`select = "GS1"`', "must be a list"]),
    "select is empty": (toml("select = []"), [], ["`select = []` leaves no rule"]),
    "unknown code": (toml("ignore = ['GS999']"), [], ["`ignore` names 'GS999'", "gradscope rule --all"]),
    "unknown severity": (toml("fail-on = 'fatal'"), [], ['`fail-on = "fatal"`', "'warning'"]),
    "misspelt rule": (toml("rules.dead-unit.warn-fraction = 0.3"), [], ["`rules.dead-unit`", "'dead-units'"]),
    "misspelt threshold": (toml("rules.dead-units.warnfraction = 1"), [], ["warnfraction`", "'warn-fraction'"]),
    "threshold in percent": (toml("rules.dead-units.warn-fraction = 30"), [], ["warn-fraction = 30`", "0 to 1"]),
    "threshold in words": (toml("rules.dead-units.min-steps = 'few'"), [], ['min-steps = "few"`', "whole number"]),
    "suppressed without a reason": (
        toml() + "[[tool.gradscope.suppress]]\nrule = 'GS301'\nmodule = '*'\n",
        [],
        ["`reason` of suppress number 1 is missing"],
    ),
    "suppressed with a blank reason": (
        toml() + "[[tool.gradscope.suppress]]\nrule = 'GS301'\nmodule = '*'\nreason = ''\n",
        [],
        ['`reason = ""`', "must not be blank"],
    ),
    "no loss": (toml(loss=None), [], ["`loss` of check 'net' is missing"]),
    "no steps": (toml(steps=0), [], ["`steps = 0` of check 'net'", "1 or more"]),
    "no seeds": (toml(seeds=0), [], ["`seeds = 0` of check 'net'", "1 or more"]),
    "negative lr": (toml(lr=-0.1), [], ["`lr = -0.1` of check 'net'", "above 0"]),
    "a path as reference": (toml(model="acme/models.py:build"), [], ["acme/models.py:build", "'acme.models:build'"]),
    "a reference with dots": (toml(loss="torch.nn.CrossEntropyLoss"), [], ["'torch.nn:CrossEntropyLoss'"]),
    "two of one name": (toml() + toml().partition("\n\n")[2], [], ['`name = "net"`', "stands twice"]),
    "broken TOML": ("[tool.gradscope]\nselect = ['GS'\nx = 1\n", [], ["pyproject.toml", "no valid TOML", "line 3"]),
    "no UTF-8": ("[tool.gradscope]\n# \xfc\n".encode("latin-1"), [], ["pyproject.toml, line 2", "UTF-8"]),
    "several at once": (toml("selct = []", lr=0), [], ["two mistakes", "`selct`", "`lr = 0`"]),
    "misspelt name": (toml(), ["nett"], ["'nett'", "did you mean 'net'"]),
    "no such trace": (toml(), ["run.h5"], ["'run.h5'", "no such file"]),
    "no such script": (toml(), ["trian.py"], ["'trian.py'", "no such file"]),
    "a folder": (toml(), ["acme"], ["'acme' is a folder"]),
    "no such settings": (toml(), ["--config", "gate.toml"], ["'gate.toml' cannot be read"]),
    "settings of others": (toml(), ["--config", "other.toml"], ["'other.toml' has no [tool.gradscope]"]),
}
OPTIONS = {
    "unknown option": (["--slect", "GS1"], ["--slect", "--select"]),
    "unknown code": (["--select", "GS9"], ["`--select` names 'GS9'"]),
    "misspelt rule": (["--ignore", "dead-unit"], ["'dead-unit'", "did you mean 'dead-units'"]),
    "empty code": (["--select", "GS1,"], ["`--select` names ''"]),
    "no rule left": (["--ignore", "GS"], ["no rule is left", "'GS'"]),
    "unknown severity": (["--fail-on", "fatal"], ["'fatal'", "warning"]),
    "unknown format": (["--output-format", "jsno"], ["jsno", "did you mean 'json'"]),
    "two formats on stdout": (["--output-format", "json", "--output-format", "sarif"], ["stdout", "json", "sarif"]),
    "missing folder": (["--output-format", "json", "-o", "out/gate.json"], ["out/gate.json", "no folder 'out'"]),
    "missing folder of the baseline": (["--write-baseline", "out/known.json"], ["out/known.json", "'out'"]),
    "a folder as file": (["--output-format", "json", "-o", "acme"], ["acme", "folder"]),
    "no baseline": (["--baseline", "none.json"], ["none.json"]),
    "foreign baseline": (["--baseline", "foreign.json"], ["foreign.json"]),
    "corrupt baseline": (["--baseline", "corrupt.json"], ["corrupt.json"]),
    "baseline of a later version": (["--baseline", "later.json"], ["later.json", "gradscope/baseline/9"]),
    "baseline is a folder": (["--baseline", "acme"], ["acme"]),
    "baseline is no text": (["--baseline", "corrupt.h5"], ["corrupt.h5"]),
    "negative drift": (["--max-drift", "-1"], ["--max-drift -1", "above 0"]),
    "drift in words": (["--max-drift", "much"], ["--max-drift", "'much'"]),
    "drift without baseline": (["--max-drift", "0.5"], ["max-drift", "baseline"]),
    "no steps": (["--steps", "0"], ["--steps", "0"]),
    "seeds in words": (["--seeds", "two"], ["--seeds", "'two'"]),
    "negative lr": (["--lr", "-1"], ["--lr -1"]),
    "lr that is no number": (["--lr", "nan"], ["--lr nan"]),
    "corrupt HDF5": (["corrupt.h5"], ["corrupt.h5 is truncated or damaged"]),
    "a cut trace": (["cut.h5"], ["cut.h5 is truncated or damaged"]),
    "HDF5 of others": (["foreign.h5"], ["foreign.h5"]),
    "a text as trace": (["other.toml"], ["other.toml is no gradscope trace"]),
    "over the trace": (["whole.h5", "-o", "whole.h5", "--output-format", "json"], ["`-o whole.h5`", "another"]),
    "an empty file": (["empty.h5"], ["empty.h5 is no gradscope trace"]),
    "nothing recorded": (["blank.h5"], ["blank.h5: no step was recorded", "optimizer.step()"]),
    "how to train a trace": (["blank.h5", "--steps", "3"], ["--steps 3", "trace"]),
    "arguments without a script": (["--", "--lr", "0.1"], ["script", "--"]),
    "arguments for a target": (["net", "--", "--lr", "0.1"], ["'net'", "`-- --lr 0.1`", "script"]),
    "arguments for no script": (["trian.py", "--", "--lr", "0.1"], ["no such file: 'trian.py'"]),
    "two scripts": (["crash.py", "idle.py"], ["crash.py", "idle.py"]),
    "a script's lr as an option": (["crash.py", "--lr", "0.1"], ["--lr 0.1", "`--`"]),
    "a model alone": (["--model", "acme.models:build"], ["--model acme.models:build", "--batch", "--loss"]),
    "a model with dots": (options(model="acme.models.build"), ["--model acme.models.build", "'acme.models:build'"]),
    "a model and a name": ([*options(), "net"], ["--model acme.models:build", "net"]),
}
RUNS = {
    "no such module": (["-m", "acme.trian"], ["`-m acme.trian`", "no such module"]),
    "a script that crashes": (["crash.py"], ["crash.py:2", "ValueError: the data set is gone"]),
    "a script that does not train": (["idle.py"], ["nothing was recorded", "idle.py trained no model"]),
    "a script that leaves": (["leaves.py"], ["leaves.py ended with exit code 1 after 0 of 20 steps"]),
}
# what of the target is otherwise, as a setting and as an option
TRAINING = {
    "no such module": ({"model": "acme.modles:build"}, ["acme.modles", "did you mean 'acme.models'"]),
    "no such package": ({"batch": "amce.data:batch"}, ["amce", "did you mean 'acme'"]),
    "no such function": ({"model": "acme.models:buld"}, ["acme.models:buld", "did you mean 'build'"]),
    "a module": ({"loss": "acme:losses"}, ["acme.losses is a module", "'acme.losses:…'"]),
    "no such loss": ({"loss": "torch.nn.functional:cross_entrop"}, ["cross_entrop", "'cross_entropy'"]),
    "import fails": (
        {"model": "acme.broken:build"},
        ["the import of acme.broken", "acme/broken.py:2", "'acme_extras'"],
    ),
    "syntax error": ({"model": "acme.unfinished:build"}, ["acme/unfinished.py:1", "SyntaxError"]),
    "factory wants arguments": ({"model": "acme.models:wants_width"}, ["wants_width", "(width)", "without arguments"]),
    "factory returns None": ({"model": "acme.models:nothing"}, ["nothing", "must return a torch.nn.Module", "None"]),
    "factory returns text": ({"model": "acme.models:text"}, ["must return a torch.nn.Module", "a str"]),
    "factory raises": ({"model": "acme.models:raising"}, ["acme/models.py:23", "no weights at /data/weights.pt"]),
    "factory leaves": ({"model": "acme.models:leaving"}, ["sys.exit(3)"]),
    "model is a number": ({"model": "acme.data:number"}, ["acme.data:number", "an int"]),
    "frozen model": ({"model": "acme.models:frozen"}, ["acme.models:frozen", "no parameter", "requires a gradient"]),
    "nothing to train": ({"model": "acme.models:bare"}, ["acme.models:bare", "no parameters"]),
    "forward raises": (
        {"model": "acme.models:Broken"},
        ["the forward pass of step 0", "acme/models.py:56", "bias_that"],
    ),
    "wrong shape": (
        {"model": "acme.models:Wide"},
        ["the forward pass of step 0", "acme/models.py:64", "mat1 and mat2"],
    ),
    "outputs in a dict": ({"model": "acme.models:Named"}, ["the loss of step 0", "TypeError", "dict"]),
    "forward without parameters": ({"model": "acme.models:Unused"}, ["no gradient in step 0"]),
    "empty batch": ({"batch": "acme.data:empty"}, ["acme.data:empty", "(0,"]),
    "batch of one under BatchNorm": (
        {"model": "acme.models:normed", "batch": "acme.data:one"},
        ["the forward pass of step 0", "more than 1 value per channel"],
    ),
    "inputs alone": ({"batch": "acme.data:alone"}, ["acme.data:alone", "a pair, (inputs, targets)", "a Tensor"]),
    "a batch of three": ({"batch": "acme.data:triple"}, ["acme.data:triple", "a tuple of 3"]),
    "batch is None": ({"batch": "acme.data:nothing"}, ["acme.data:nothing", "a pair, (inputs, targets)", "None"]),
    "no batches": ({"batch": "acme.data:no_batches"}, ["acme.data:no_batches", "empty"]),
    "batch raises": ({"batch": "acme.data:raising"}, ["acme/data.py:26", "no-such-file.csv"]),
    "batch wants arguments": ({"batch": "acme.data:wants_two"}, ["acme.data:wants_two", "(path, split)"]),
    "targets of another length": ({"batch": "acme.data:uneven"}, ["the loss of step 0", "batch_size (15)"]),
    "batch is a number": ({"batch": "acme.data:number"}, ["acme.data:number", "an int"]),
    "loss for each sample": ({"loss": "acme.losses:elementwise"}, ["acme.losses:elementwise", "(16,)"]),
    "loss is a float": ({"loss": "acme.losses:number"}, ["acme.losses:number", "a float"]),
    "loss is None": ({"loss": "acme.losses:nothing"}, ["acme.losses:nothing", "None"]),
    "loss is complex": ({"loss": "acme.losses:imaginary"}, ["acme.losses:imaginary", "a real number", "complex64"]),
    "loss without a graph": ({"loss": "acme.losses:cut"}, ["acme.losses:cut", "grad"]),
    "loss of three": ({"loss": "acme.losses:three"}, ["acme.losses:three", "(outputs, targets, weights)"]),
    "loss is a pair": ({"loss": "acme.data:pair"}, ["acme.data:pair", "a tuple"]),
    "optimizer is none": ({"optimizer": "acme.optimizers:no_optimizer"}, ["no_optimizer", "a list"]),
    "optimizer of others": ({"optimizer": "acme.optimizers:of_others"}, ["of_others", "parameter"]),
    "optimizer wants more": ({"optimizer": "acme.optimizers:wants_two"}, ["wants_two", "(parameters, schedule)"]),
    "optimizer is a module": ({"optimizer": "torch:optim"}, ["torch:optim", "a module"]),
    "lr for an optimizer without": (
        {"optimizer": "acme.optimizers:without_lr", "lr": 0.5},
        ["without_lr", "(parameters)", "lr"],
    ),
    "device without numbers": ({"device": "meta"}, ["meta", "cpu"]),
    "no such device": ({"device": "gpu"}, ["gpu", "cuda"]),
    "missing device": ({"device": "cuda:7"}, ["cuda:7"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's project."""
    root = tmp_path_factory.mktemp("user")
    (root / "acme").mkdir()
    files = {
        "acme/__init__.py": "",
        "acme/models.py": MODELS,
        "acme/data.py": DATA,
        "acme/losses.py": LOSSES,
        "acme/optimizers.py": OPTIMIZERS,
        "acme/broken.py": "import torch\nimport acme_extras\n",
        "acme/unfinished.py": "def build(:\n",
        "other.toml": "[tool.ruff]\nline-length = 100\n",
        "foreign.json": '{"results": []}\n',
        "corrupt.json": '{"schema": "gradscope/baseline/1", "findings": [',
        "later.json": '{"schema": "gradscope/baseline/9", "findings": [], "profiles": {}}',
        "empty.h5": "",
        **SCRIPTS,
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    from builders import trace_of

    trace_of(output_grad_rms=[1.0, 1.0]).save(root / "whole.h5")
    trace_of(output_grad_rms=np.empty((0, 2))).save(root / "blank.h5")
    with h5py.File(root / "foreign.h5", "w") as file:
        file["weights"] = [1.0, 2.0]
    whole = (root / "whole.h5").read_bytes()
    (root / "cut.h5").write_bytes(whole[: len(whole) // 3])
    (root / "corrupt.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + os.urandom(4096))
    return root


@pytest.fixture
def check(folder, unknown_acme, monkeypatch, capfd):
    """Runs `gradscope check` there, in this process; returns what it said on stderr, which must be misuse."""
    from gradscope.cli import main

    monkeypatch.chdir(folder)

    def call(settings: str | bytes, *words: str) -> str:
        text = settings.encode() if isinstance(settings, str) else settings
        (folder / "pyproject.toml").write_bytes(text)
        code = main(["check", *words])
        out, err = capfd.readouterr()
        assert code == 2, (out, err)
        assert out == ""
        return err

    return call


def helps(err: str, fragments: list[str]) -> None:
    """The last line is a sentence of ours with all `fragments`; before it at most the user's traceback."""
    *before, last = err.splitlines()
    assert last.startswith("gradscope: "), err
    assert all(line.startswith("gradscope: in ") for line in before if line.startswith("gradscope: ")), err
    assert not before or before[0].startswith(("Traceback (most recent call last)", "  File ")), err
    assert "/gradscope/" not in err.replace("/site-packages/", "/"), err
    assert "an error that should not happen" not in err
    for fragment in fragments:
        assert fragment in last, err


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(check, name):
    settings, words, fragments = SETTINGS[name]
    err = check(settings, *words)
    assert err.count("\n") == 1
    helps(err, fragments)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(check, name):
    words, fragments = OPTIONS[name]
    helps(check(toml(), *words), fragments)


@pytest.mark.parametrize("name", RUNS)
def test_scripts(check, name):
    words, fragments = RUNS[name]
    err = check("", *words)
    own = {"idle.py": "nothing is trained here\n", "leaves.py": "no data\n"}.get(words[0], "")
    assert own in err
    helps(err.replace(own, "", 1), fragments)


@pytest.mark.parametrize("name", TRAINING)
def test_what_is_trained_as_a_setting(check, name):
    changes, fragments = TRAINING[name]
    err = check(toml(**changes))
    helps(err, fragments)
    if err.count("\n") == 1 and "sys.exit" not in err:
        assert any(f"[[tool.gradscope.check]] net: {key} = " in err for key in (*changes, "loss", "batch"))


@pytest.mark.parametrize("name", TRAINING)
def test_what_is_trained_as_an_option(check, name):
    changes, fragments = TRAINING[name]
    err = check("", *options(**changes))
    helps(err, fragments)
    if err.count("\n") == 1 and "sys.exit" not in err:
        assert any(f"`--{key} " in err for key in (*changes, "loss", "batch"))


def alone(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, that sees nothing but what is installed and the user's folder."""
    command = [sys.executable, "-I", "-m", "gradscope", "check", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    return run


@pytest.mark.parametrize(
    ("settings", "words", "fragments"),
    [SETTINGS["several at once"], (toml(), *OPTIONS["a cut trace"]), (toml(), *OPTIONS["corrupt baseline"])],
    ids=["settings", "trace", "baseline"],
)
def test_a_process_of_its_own(folder, settings, words, fragments):
    (folder / "pyproject.toml").write_text(settings)
    run = alone(folder, *words)
    assert run.stdout == ""
    helps(run.stderr, fragments)


@pytest.mark.slow
def test_one_that_fails_does_not_hide_the_others(folder):
    (folder / "pyproject.toml").write_text(toml(model="acme.models:Broken") + toml(name="other").partition("\n\n")[2])
    run = alone(folder)
    assert "other  passed" in run.stdout
    assert "net    broken\n  the forward pass of step 0 failed at acme/models.py:56: " in run.stdout
    helps(run.stderr, ["gradscope: in the forward pass of step 0"])  # the traceback; what it means stands on stdout

"""Trainings that are watched from another process: killed, replaced, and started by `attach --live`."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from script_runs import ENVIRONMENT

TRAINING = """
import sys, time, torch
from torch import nn
torch.manual_seed(0)
layers = [part for _ in range(10) for part in (nn.Linear(16, 16), nn.Sigmoid())]
model = nn.Sequential(*layers, nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(int(sys.argv[1])):
    x = torch.randn(32, 16)
    loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print("the script says", step, flush=True)
    time.sleep(0.005)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAINING)
    return path


def gradscope(*words: object, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "gradscope", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def test_a_training_that_is_killed_is_said_and_its_findings_stay(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with gradscope("live", path, "--until-end") as view, gradscope("attach", "-o", path, script, 100000) as training:
        assert view.stdout is not None
        said = []
        for line in view.stdout:
            said.append(line)
            if "GS101" in line:
                training.send_signal(signal.SIGKILL)
        assert view.wait(timeout=30) == 0
    text = "".join(said)
    assert text.startswith(f"waiting for {path}, which does not exist yet\n")
    assert "error GS101 vanishing-gradient" in text
    assert "the training has died: it was killed" in text


def test_attach_live_shows_the_training_on_stderr_and_leaves_stdout_alone(script: Path, tmp_path: Path) -> None:
    plain = subprocess.run([sys.executable, script, "60"], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    for options in ((), ("-o", tmp_path / "run.h5")):
        with gradscope("attach", "--live", "-q", *options, script, 60) as training:
            out, err = training.communicate(timeout=120)
        assert training.returncode == 0
        assert out == plain.stdout
        assert "error GS101 vanishing-gradient" in err
        assert err.index("the recording has ended") > err.index("GS101")
        assert ("the trace of" in err) is bool(options), "a temporary one is gone"


def test_an_attach_that_is_killed_takes_its_view_along(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with gradscope("attach", "--live", "-o", path, script, 100000) as training:
        assert training.stderr is not None
        for line in training.stderr:
            if "GS101" in line:
                training.send_signal(signal.SIGKILL)
        # stderr, which the view holds too, has come to its end
        start = time.monotonic()
        training.wait()
    assert time.monotonic() - start < 20

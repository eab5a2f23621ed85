"""A training that is killed leaves a trace that can be read; the writer alone is killed 25 times in test_storage.py."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gradscope

PROGRAM = """
import sys, torch, gradscope
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters())
scope = gradscope.attach(model, optimizer=optimizer, trace=sys.argv[1])
step = 0
while True:
    loss = model(torch.randn(4, 8)).square().sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    scope.record_loss(loss)
    step += 1
    print(step, flush=True)
"""


@pytest.mark.parametrize(("how", "lost"), [(signal.SIGKILL, 16), (signal.SIGTERM, 0)])
@pytest.mark.parametrize("after", [5, 70])
def test_a_training_killed_in_mid_run_leaves_its_trace(
    tmp_path: Path, how: signal.Signals, lost: int, after: int
) -> None:
    path = tmp_path / "run.h5"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == after:
                child.send_signal(how)
                break
        done = max([after, *(int(line) for line in child.stdout if line.strip())])
    assert child.returncode == -how
    trace = gradscope.read_trace(path)
    assert done - lost <= len(trace.steps) <= done + 1, "the step after the last that was printed may be there"
    assert trace.steps.tolist() == list(range(len(trace.steps)))

"""Long runs and many recordings: memory stays where it is, and nothing of a recording is left behind.

Both run in processes of their own, where nothing else allocates.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradscope

ROOT = Path(__file__).parents[2]
STEPS, WARM = 20_000, 4_000
CYCLES = 200

TRAINING = f"""
import json, sys, psutil, torch, gradscope
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Linear(2, 1)  # what is recorded costs the same time for each step, whatever its size
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
scope = gradscope.attach(model, optimizer=optimizer, trace=sys.argv[1])
process, x, sizes = psutil.Process(), torch.randn(8, 2), []
for step in range({STEPS}):
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step >= {WARM} and step % 500 == 0:
        sizes.append(process.memory_info().rss)
scope.detach()
print(json.dumps([*sizes, process.memory_info().rss]))
"""

RECORDINGS = """
import gc, json, signal, sys, weakref, psutil, torch, gradscope
from pathlib import Path
from torch import nn
from gradscope import at_exit
torch.set_num_threads(1)
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.rnn = nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        h = self.rnn(torch.tanh(self.act(self.first(x))))[0]
        return self.attention(h, h, h)[0]

kept = Net()                                     # watched again and again
x, sigterm, scopes = torch.randn(2, 3, 4), signal.getsignal(signal.SIGTERM), weakref.WeakSet()
sizes, objects = [], []
for cycle in range(int(sys.argv[1])):
    model = kept if cycle % 2 else Net()         # and others that die with their recording
    optimizer = torch.optim.Adam(model.parameters())
    path = Path(sys.argv[2], "run.h5") if cycle % 10 == 0 else None
    try:
        with gradscope.attach(model, optimizer=optimizer, trace=path) as scope:
            for step in range(2):
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                if cycle % 3 == 0 and step:
                    raise RuntimeError("stop")
    except RuntimeError:
        pass
    assert len(scope.trace.steps) == 2
    scopes.add(scope)
    for module in model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
        assert not (module._forward_hooks_with_kwargs or module._forward_pre_hooks_with_kwargs)
    for parameter in model.parameters():
        assert not (parameter._post_accumulate_grad_hooks or parameter._backward_hooks)
    assert not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
    assert not at_exit.pending()
    del scope, model, optimizer, module, parameter
    if cycle % 20 == 19:
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
        objects.append(len(gc.get_objects()))
assert signal.getsignal(signal.SIGTERM) is sigterm
print(json.dumps({"sizes": sizes, "objects": objects, "alive": len(scopes)}))
"""


def output_of(program: str, *arguments: object) -> object:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_memory_of_a_long_run_is_flat(tmp_path: Path) -> None:
    sizes = output_of(TRAINING, tmp_path / "run.h5")
    middle = sorted(sizes)[len(sizes) // 2]
    assert max(abs(size / middle - 1) for size in sizes) < 0.02, [size // 1024 for size in sizes]
    trace = gradscope.read_trace(tmp_path / "run.h5")
    assert len(trace.steps) == STEPS
    assert not trace.events


@pytest.mark.slow
def test_hundreds_of_recordings_leave_nothing_behind(tmp_path: Path) -> None:
    found = output_of(RECORDINGS, CYCLES, tmp_path)
    assert found["alive"] == 0
    warm = len(found["sizes"]) // 3
    objects, sizes = found["objects"][warm:], found["sizes"][warm:]
    assert max(objects) - min(objects) < CYCLES // 4, objects  # a recording that leaked would bring hundreds each
    assert max(sizes) / min(sizes) < 1.02, [size // 1024 for size in sizes]

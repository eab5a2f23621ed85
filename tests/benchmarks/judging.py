"""What judging a trace costs: seconds and peak resident size of a fresh process that reads and judges it.

    python tests/benchmarks/judging.py

The gate promises 5 s and 1 GB for 1,000 sites × 5,000 steps. The traces are true recordings of a few steps, whose
records are repeated with noise: shapes, units, times and the digits that compress badly are those of a real run.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from gradscope.records import COLUMN, STATISTICS
from gradscope.storage import TraceWriter
from gradscope.trace import Floats, StepRecord, Trace

RECORDED = 24  # true steps
MODELS = {
    "residual, healthy": """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.act, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)
    def forward(self, x):
        return x + 0.3 * self.down(self.act(self.up(self.norm(x))))
model = nn.Sequential(nn.Linear(16, 32), *[Block() for _ in range(25)], nn.Linear(32, 4))
x, lr, clip = torch.randn(64, 16), 1e-3, 1e9
""",
    "plain, sick": """
layers = [nn.Linear(16, 32), nn.ReLU()]
for _ in range(69):
    layers += [nn.Linear(32, 32), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(32, 4))
for module in model:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=2.8 / module.in_features**0.5)
nn.init.constant_(model[100].bias[:28], -1e9)
x, lr, clip = torch.randn(64, 16), 1e-3, 1e-9
""",
    "recurrent, sick": """
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(16, 32, num_layers=2, batch_first=True)
        hidden = [layer for _ in range(58) for layer in (nn.Linear(32, 32), nn.Sigmoid())]
        self.head = nn.Sequential(*hidden, nn.Linear(32, 4))
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])
model = Reader()
for name, weight in model.rnn.named_parameters():
    if "weight_hh" in name:
        weight.data.mul_(0.3)
x, lr, clip = torch.randn(16, 24, 16), 1e-3, 1.0
""",
}

RECORDING = """
import sys, torch, gradscope
from torch import nn
torch.manual_seed(0)
{model}
optimizer = torch.optim.Adam(model.parameters(), lr=lr)
y = torch.randint(4, (len(x),))
with gradscope.attach(model, optimizer=optimizer, trace=sys.argv[1]):
    for _ in range(int(sys.argv[2])):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
"""

JUDGING = """
import json, resource, sys, time
start = time.perf_counter()
from gradscope.rules.engine import default_rules, diagnose
from gradscope.trace_file import read_trace
rules = default_rules()
times = {"import": time.perf_counter() - start}
start = time.perf_counter()
trace = read_trace(sys.argv[1])
times["read"] = time.perf_counter() - start
found = []
if sys.argv[2] == "each":
    for rule in rules:
        start = time.perf_counter()
        found += [finding.code for finding in diagnose(trace, [rule]).findings]
        times[rule.code] = time.perf_counter() - start
else:
    start = time.perf_counter()
    found = [finding.code for finding in diagnose(trace).findings]
    times["judge"] = time.perf_counter() - start
assert "torch" not in sys.modules
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"sites": len(trace.sites), "found": sorted(set(found)), "times": times, "peak": peak}))
"""

_SIZES = ("mean", "std", "rms", "l2_norm", "abs_max", "min", "max")  # they change by a common factor
_SHARES = ("zero_fraction", "dead_fraction", "saturated_fraction")
_RARE = (
    "symmetric_fraction",
    "spectral_radius",
    "spectral_norm",
    "sample_spread",
    "direction_spread",
)  # measured in some of the steps only


def make(model: str, path: Path, steps: int) -> None:
    """Records `model` for a few steps and writes a trace of `steps` to `path`."""
    from gradscope.storage import read_trace

    short = path.with_suffix(".short.h5")
    program = RECORDING.replace("{model}", MODELS[model])
    subprocess.run([sys.executable, "-c", program, str(short), str(RECORDED)], check=True)
    trace = read_trace(short)
    writer = TraceWriter(path)
    for record in repeated(trace, steps):
        writer.append(record, trace.sites, trace.meta)
    writer.close()


def repeated(trace: Trace, steps: int) -> Iterator[StepRecord]:
    """The steps of `trace`, then its second half over and over, with noise."""
    rng = np.random.default_rng(0)
    known = len(trace.steps)
    order = itertools.chain(range(known), itertools.cycle(range(known // 2, known)))
    rows_of = [np.flatnonzero(trace.times.step == row) for row in range(known)]
    for step, row in enumerate(itertools.islice(order, steps)):
        values = np.stack([trace.statistics[s][row] for s in STATISTICS], axis=1)
        rows = rows_of[row]
        yield StepRecord(
            step=step,
            per_step={name: float(column[row]) for name, column in trace.per_step.items()},
            values=noisy(values, rng, rare=step % 8 == 0),
            time_index=np.stack([trace.times.site[rows], trace.times.time[rows]], axis=1),
            time_values=noisy(trace.times.values[rows], rng, rare=step % 8 == 0),
        )


def noisy(values: Floats, rng: np.random.Generator, *, rare: bool) -> Floats:
    """`values` (row, statistic) of another step that might have been."""
    result = values.copy()
    factor = np.exp(0.1 * rng.standard_normal(len(values)))
    for name in _SIZES:
        result[:, COLUMN[name]] *= factor
    for name in _SHARES:
        result[:, COLUMN[name]] = np.minimum(result[:, COLUMN[name]] * factor, 1.0)
    if not rare:
        result[:, [COLUMN[name] for name in _RARE]] = np.nan
    return result


@click.command()
@click.option("--steps", default=5000)
@click.option("--only", default=",".join(MODELS), help="Models; those of which the name contains one of these words.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the traces here, and take those that are there.")
@click.option("--each", is_flag=True, help="Time every rule by itself.")
def main(steps: int, only: str, folder: Path | None, each: bool) -> None:
    """Prints the seconds and the peak resident size of a process that judges each trace."""
    with tempfile.TemporaryDirectory() as temporary:
        home = folder or Path(temporary)
        home.mkdir(exist_ok=True)
        for model in MODELS:
            if not any(word.strip() in model for word in only.split(",")):
                continue
            path = home / f"{model.replace(', ', '-')}-{steps}.h5"
            if not path.exists():
                make(model, path, steps)
            program = [sys.executable, "-c", JUDGING, str(path), "each" if each else "all"]
            done = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
            title = f"{model}: {done['sites']} sites, {path.stat().st_size / 2**20:.0f} MiB, {' '.join(done['found'])}"
            table = Table("", "seconds", title=title)
            for name, seconds in done["times"].items():
                table.add_row(name, f"{seconds:.2f}")
            table.add_row("in all", f"{sum(done['times'].values()):.2f}", f"{done['peak']:.0f} MiB")
            Console().print(table)


if __name__ == "__main__":
    main()

"""What watching costs: how far the view is behind, how much memory it holds, and the training's steps beside it.

    python tests/benchmarks/live.py [--seconds 60] [--rate 50]

A training of so many steps a second runs alone and is watched, in turns of some seconds each, so the noise of the
machine hits both alike; the step's time is the median over all steps of a kind. The lag is how long a step that the
writer has appended was not yet in the view; that a block of 16 steps is written at once is in it.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from gradscope.live import Watcher

TURN_S = 5.0
TRAINING = """
import sys, time, torch, gradscope
from torch import nn
path, rate, seconds, times = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
layers = [part for _ in range(6) for part in (nn.Linear(64, 64), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters())
with gradscope.attach(model, optimizer=optimizer, trace=path) as scope, open(times, "w", buffering=1) as log:
    begin = time.monotonic()
    step = 0
    while time.monotonic() < begin + seconds:
        start = time.monotonic()
        x = torch.randn(64, 64)
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scope.record_loss(loss)
        end = time.monotonic()
        print(step, end, end - start, file=log)
        step += 1
        time.sleep(max(0.0, begin + step / rate - time.monotonic()))
"""


def watch(path: Path, seconds: float) -> tuple[list[tuple[float, int]], list[float]]:
    """When the view knew of how many steps, and its resident MiB; it looks on and looks away in turns."""
    seen, sizes = [], []
    process = psutil.Process()
    begin = time.monotonic()
    with Watcher(path) as watcher:
        while time.monotonic() < begin + seconds:
            if int((time.monotonic() - begin) / TURN_S) % 2:
                moment = watcher.look()
                seen.append((time.monotonic(), moment.recorded))
                sizes.append(process.memory_info().rss / 2**20)
            time.sleep(0.25)
    return seen, sizes


@click.command()
@click.option("--seconds", default=60.0, help="Of training; the view looks on for half of them.")
@click.option("--rate", default=50.0, help="Steps a second.")
def main(seconds: float, rate: float) -> None:
    """Trains and watches."""
    with tempfile.TemporaryDirectory() as folder:
        path, times = Path(folder) / "run.h5", Path(folder) / "times"
        words = [sys.executable, "-c", TRAINING, str(path), str(rate), str(seconds), str(times)]
        with subprocess.Popen(words) as training:
            while not path.exists():
                time.sleep(0.1)
            begin = time.monotonic()
            seen, sizes = watch(path, seconds)
            training.wait()
        steps = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _, end, took in steps:
        taken[bool(int((end - begin) / TURN_S) % 2)].append(1e3 * took)
    ends = [end for _, end, _ in steps]
    # of each look: how long ago was the first step appended that it does not know, if there was one
    lags = [max(0.0, at - ends[known]) if known < len(ends) else 0.0 for at, known in seen]
    quarter = max(1, len(sizes) // 4)
    table = Table("what", "value")
    table.add_row(
        "steps", f"{len(steps)} in {ends[-1] - ends[0]:.0f} s, {len(steps) / (ends[-1] - ends[0]):.1f} a second"
    )
    for watched, name in ((False, "alone"), (True, "watched")):
        table.add_row(f"step, {name}", f"{statistics.median(taken[watched]):.2f} ms (median of {len(taken[watched])})")
    table.add_row("lag", f"median {statistics.median(lags):.2f} s, largest {max(lags):.2f} s; last {lags[-1]:.2f} s")
    table.add_row("resident", f"first quarter {max(sizes[:quarter]):.0f} MiB, last {max(sizes[-quarter:]):.0f} MiB")
    Console().print(table)
    print(json.dumps({"lag_s": max(lags), "rss_mib": sizes[-1]}))


if __name__ == "__main__":
    main()

"""What recording costs in memory: the peak resident size of a training with and without gradscope, in fresh processes.

    python tests/benchmarks/memory.py

The model holds a few hundred MB of activations between forward and backward. A recorder that kept one of them alive, or
a copy, would show here.
"""

import subprocess
import sys

import click
from rich.console import Console
from rich.table import Table

PROGRAM = """
import resource, sys, torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
layers = []
for i in range(24):
    layers += [nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters())
if sys.argv[1] == "watched":
    import gradscope
    gradscope.attach(model, optimizer=optimizer)
x, y = torch.randn(32, 3, 48, 48), torch.randint(10, (32,))
for _ in range(4):
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mib(mode: str) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return float(done.stdout)


@click.command()
@click.option("--rounds", default=3)
def main(rounds: int) -> None:
    """Prints the peak resident size of both, and their ratio; the median over the rounds."""
    pairs = sorted((peak_mib("bare"), peak_mib("watched")) for _ in range(rounds))
    bare, watched = pairs[len(pairs) // 2]
    table = Table("", "peak resident size")
    table.add_row("bare", f"{bare:.0f} MiB")
    table.add_row("recording every step", f"{watched:.0f} MiB")
    table.add_row("ratio", f"{watched / bare:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()

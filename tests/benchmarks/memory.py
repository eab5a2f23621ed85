"""What recording costs in memory: the peak resident size of a training with and without gradscope, in fresh processes.

    python tests/benchmarks/memory.py

The convolutional model holds a few hundred MB of activations between forward and backward: a recorder that kept one of
them alive, or a copy, would show here. The LSTM's way back through time is gone a second time, with gates, states and
gradients of one layer at a time in memory: a multiple of time × batch × hidden, whatever the number of layers.
"""

import subprocess
import sys

import click
from rich.console import Console
from rich.table import Table

MODELS = {
    "CNN": """
layers = []
for i in range(24):
    layers += [nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
x = torch.randn(32, 3, 48, 48)
""",
    "LSTM 4×256, 64×300 steps": """
class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 256, 4, batch_first=True), nn.Linear(256, 10)
    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])
model = Reader()
x = torch.randn(64, 300, 64)
""",
}

PROGRAM = """
import resource, sys, torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
{model}
optimizer = torch.optim.Adam(model.parameters())
if sys.argv[1] == "watched":
    import gradscope
    gradscope.attach(model, optimizer=optimizer)
y = torch.randint(10, (len(x),))
for _ in range(4):
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mib(model: str, mode: str) -> float:
    program = PROGRAM.replace("{model}", MODELS[model])
    done = subprocess.run([sys.executable, "-c", program, mode], capture_output=True, text=True, check=True)
    return float(done.stdout)


@click.command()
@click.option("--rounds", default=3)
def main(rounds: int) -> None:
    """Prints the peak resident size of both, and their ratio; the median over the rounds."""
    table = Table("model", "bare", "every step recorded", "ratio")
    for model in MODELS:
        pairs = sorted((peak_mib(model, "bare"), peak_mib(model, "watched")) for _ in range(rounds))
        bare, watched = pairs[len(pairs) // 2]
        table.add_row(model, f"{bare:.0f} MiB", f"{watched:.0f} MiB", f"{watched / bare:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

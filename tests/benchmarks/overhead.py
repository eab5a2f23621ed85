"""What a recorded step costs: the ratio to the bare step, both interleaved in one run.

    python tests/benchmarks/overhead.py [--rounds 40] [--only mlp,lstm] [--threads 1]

Two copies of each model take turns, step by step, with the same data, so the noise of the machine hits both alike; the
figure is the median over the rounds of the ratio of a round's times. One round is ten steps, so that every tenth step
recorded is in it whole.
"""

import copy
import statistics
import time
from collections.abc import Callable

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import gradscope
from gradscope.schedule import Schedule

ROUND = 10


class Block(nn.Module):
    """A residual block of a ResNet-20."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and inside == outside
        self.skip = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.skip(x)
        return self.relu(y)


class GPT(nn.Module):
    """A small GPT-2: pre-norm blocks, causal attention, tied embeddings."""

    def __init__(
        self, vocabulary: int = 1000, width: int = 256, layers: int = 4, heads: int = 8, length: int = 128
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Reader(nn.Module):
    """A two-layer LSTM on an embedded sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = (
            nn.Linear(32, 256),
            nn.LSTM(256, 256, 2, batch_first=True),
            nn.Linear(256, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0][:, -1])


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    layers = [part for _ in range(20) for part in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(256, 10)), torch.randn(512, 256), torch.randint(10, (512,))


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    blocks = [Block(16, 16, 1) for _ in range(3)]
    blocks += [
        Block(16, 32, 2),
        Block(32, 32, 1),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 64, 1),
        Block(64, 64, 1),
    ]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return model, torch.randn(32, 3, 32, 32), torch.randint(10, (32,))


def gpt2() -> tuple[nn.Module, Tensor, Tensor]:
    return GPT(), torch.randint(1000, (8, 128)), torch.randint(1000, (8, 128))


def lstm() -> tuple[nn.Module, Tensor, Tensor]:
    return Reader(), torch.randn(16, 100, 32), torch.randint(10, (16,))


def tiny() -> tuple[nn.Module, Tensor, Tensor]:
    layers = [part for _ in range(200) for part in (nn.Linear(16, 16), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(16, 10)), torch.randn(16, 16), torch.randint(10, (16,))


MODELS: dict[str, tuple[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]]] = {
    "mlp": ("MLP 20×256, batch 512", mlp),
    "cnn": ("ResNet-20, 32×32, batch 32", cnn),
    "gpt2": ("GPT-2, 4×256, 8×128 tokens", gpt2),
    "lstm": ("LSTM 2×256, 16×100 steps", lstm),
    "tiny": ("400 tiny modules", tiny),
}


def stepper(model: nn.Module, x: Tensor, y: Tensor, every: int | Schedule | None = None) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters())
    if every is not None:
        gradscope.attach(model, optimizer=optimizer, every=every)

    def step() -> None:
        optimizer.zero_grad()
        output = model(x)
        F.cross_entropy(output.flatten(0, -2), y.flatten()).backward()
        optimizer.step()

    return step


def ratios(build: Callable[[], tuple[nn.Module, Tensor, Tensor]], rounds: int) -> tuple[float, list[float]]:
    """Milliseconds of a bare step, and the ratios with every step and with every tenth step recorded."""
    model, x, y = build()
    loops = [
        stepper(copy.deepcopy(model), x, y),
        stepper(copy.deepcopy(model), x, y, every=1),
        stepper(copy.deepcopy(model), x, y, every=ROUND),
    ]
    times: list[list[float]] = [[] for _ in loops]
    for number in range(rounds + 2):
        spent = [0.0] * len(loops)
        for turn in range(ROUND):
            for i in range(len(loops)):
                which = (i + turn) % len(loops)
                start = time.perf_counter()
                loops[which]()
                spent[which] += time.perf_counter() - start
        if number >= 2:  # warm by then
            for i, seconds in enumerate(spent):
                times[i].append(seconds)
    relative = [statistics.median(t / bare for t, bare in zip(row, times[0], strict=True)) for row in times[1:]]
    return statistics.median(times[0]) / ROUND * 1e3, relative


def compiled_ratio(build: Callable[[], tuple[nn.Module, Tensor, Tensor]], rounds: int) -> tuple[float, float]:
    """Milliseconds of a bare step of the compiled model, and the ratio with every tenth step recorded.

    Torch's switch, by which a recorded step runs eagerly, is the process's: so whole rounds take turns, and what is
    recorded is not a round's first step, for which the switch is thrown at the end of the one before.
    """
    model, x, y = build()
    loops = [
        stepper(torch.compile(copy.deepcopy(model)), x, y),
        stepper(torch.compile(copy.deepcopy(model)), x, y, every=lambda step: step % ROUND == ROUND // 2),
    ]
    times: list[list[float]] = [[], []]
    for number in range(rounds + 2):
        for loop, row in zip(loops, times, strict=True):
            start = time.perf_counter()
            for _ in range(ROUND):
                loop()
            if number >= 2:
                row.append(time.perf_counter() - start)
    ratio = statistics.median(watched / bare for bare, watched in zip(*times, strict=True))
    return statistics.median(times[0]) / ROUND * 1e3, ratio


@click.command()
@click.option("--rounds", default=20, help="Rounds of ten steps.")
@click.option("--only", default=",".join(MODELS), help="Models, separated by commas.")
@click.option("--threads", default=1, help="Threads of torch.")
@click.option("--compiled", default="mlp,gpt2", help="Models that are compiled too.")
def main(rounds: int, only: str, threads: int, compiled: str) -> None:
    """Prints the overhead of recording everything, as ratios to the bare training step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = Table("model", "bare step", "every step", "every 10th")
    for name in filter(None, only.split(",")):
        title, build = MODELS[name]
        bare, (each, tenth) = ratios(build, rounds)
        table.add_row(title, f"{bare:.1f} ms", f"{each:.2f} ×", f"{tenth:.3f} ×")
    for name in filter(None, compiled.split(",")):
        title, build = MODELS[name]
        bare, tenth = compiled_ratio(build, rounds)
        table.add_row(f"{title}, compiled", f"{bare:.1f} ms", "", f"{tenth:.3f} ×")
    Console().print(table)


if __name__ == "__main__":
    main()

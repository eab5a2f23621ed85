"""Trainings that two processes and a single one run alike: what the tests of ranks compare.

`python tests/two_processes.py RANK PORT FOLDER` is one of the two processes. It runs every case with gradscope, which
writes FOLDER/<case>.rank<r>.h5, and without, and saves the losses and parameters of both as FOLDER/<case>.rank<r>.pt.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import gradscope

RANKS = 2
STEPS = 12  # more than the window of dead units


class Gated(nn.Module):
    """Rectified layers; some units are dead, and some only for what one of the ranks is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(6, 21), nn.ReLU()
        self.second, self.gelu = nn.Linear(21, 7), nn.GELU()
        self.last, self.sigmoid = nn.Linear(7, 1), nn.Sigmoid()
        with torch.no_grad():
            self.first.bias[:4] = -30.0
            self.first.bias[4:8] = -30.0
            self.first.weight[4:8, 0] = 20.0  # open where the first input is large, as it is on rank 1

    def forward(self, x: Tensor) -> Tensor:
        return self.sigmoid(self.last(self.gelu(self.second(self.relu(self.first(x))))))


class SometimesUsed(nn.Module):
    """A branch that only the samples with a large first input go through: none of rank 0's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.stem(x))
        chosen = (x[:, 0] > 1).nonzero()[:, 0]
        if len(chosen):
            y = y.index_add(0, chosen, torch.tanh(self.branch(y[chosen])))
        return self.head(y)


class Reader(nn.Module):
    """An LSTM over packed sequences; those of rank 1 are longer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 3 + 4 * (x[:, 0] > 1).long() + torch.arange(len(x)) % 2
        sequence = torch.stack([x * (1 + t) / 8 for t in range(8)], dim=1)
        packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0].sum(1))


class Attends(nn.Module):
    """Two blocks of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True) for _ in "ab")
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x.unsqueeze(-1))
        for block in self.blocks:
            y = block(y)
        return self.head(y.mean(1))


class Functions(nn.Module):
    """Calls functions instead of modules; rank 1's attention is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mix, self.head = nn.Linear(1, 12, bias=False), nn.Linear(4, 9), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.unsqueeze(-1)).unflatten(-1, (6, 2)).transpose(1, 2).chunk(3, dim=1)
        seen = (torch.arange(6) < 6 - 3 * (x[:, :1] > 1).long())[:, None, None, :]
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        return self.head(nn.functional.relu(self.mix(y) - 0.4).mean(1)).sigmoid()


class Checkpointed(nn.Module):
    """Two of its layers are computed again in backward, each in a backward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.stem(x))
        for layer in (self.first, self.second):
            y = torch.tanh(checkpoint(layer, y, use_reentrant=True))
        return self.head(y).mean(1, keepdim=True)


def data(step: int, micro: int, rank: int, *, spoilt: int = -1, size: int = 4) -> tuple[Tensor, Tensor]:
    """What one rank is given; its first input tells the rank."""
    generator = torch.Generator().manual_seed(1000 * step + 10 * micro + rank)
    x = torch.randn(size, 6, generator=generator, dtype=torch.get_default_dtype())
    x[:, 0] = 2.0 if rank else 0.1
    if step == spoilt and rank:
        x[0, 1] = math.nan
    return x, torch.rand(size, 1, generator=generator, dtype=x.dtype)


def whole(step: int, micro: int, *, spoilt: int = -1) -> tuple[Tensor, Tensor]:
    """The batch of a single process."""
    parts = [data(step, micro, rank, spoilt=spoilt) for rank in range(RANKS)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


sgd, adam = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.01)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training.

    Attributes:
        wrap: What makes the model one of several; where it leaves it as it is, the gradients are averaged by hand.
        micro: Batches of a step; all but the last are not synchronised.
        inner: Attach to the model inside of the wrapper; with `first`, before there is a wrapper.
        scaler: Scale the loss.
        spoilt: A step in which an input of rank 1 is NaN.
        alone: Only rank 0 is watched.
        exact: Whether the whole is what a single process computes.
    """

    build: Callable[[], nn.Module]
    wrap: Callable[[nn.Module], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer] = sgd
    micro: int = 1
    clip: float | None = None
    inner: bool = False
    first: bool = False
    scaler: bool = False
    spoilt: int = -1
    alone: bool = False
    steps: Callable[[int], int] = field(default=lambda rank: STEPS)
    exact: bool = True


def ddp(model: nn.Module, **options: bool) -> nn.Module:
    return DistributedDataParallel(model, **options)


def fsdp1(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def fsdp(model: nn.Module, **options: object) -> nn.Module:
    for name, child in model.named_children():
        for part in child if isinstance(child, nn.ModuleList) else [child]:
            if name != "head" and list(part.parameters()):
                fully_shard(part, **options)
    fully_shard(model, **options)
    return model


half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
CASES: dict[str, Case] = {
    "ddp": Case(build=Gated, wrap=ddp),
    "ddp inside, clipped": Case(build=Gated, wrap=ddp, inner=True, clip=0.01, optimizer=adam, scaler=True),
    "ddp attached before": Case(build=Gated, wrap=ddp, first=True),
    "ddp checkpoints": Case(build=Checkpointed, wrap=ddp),
    "ddp spoilt": Case(build=Gated, wrap=ddp, spoilt=9),
    "ddp accumulates": Case(build=Gated, wrap=partial(ddp, gradient_as_bucket_view=True), micro=3),
    "ddp static graph": Case(build=Attends, wrap=partial(ddp, static_graph=True)),
    "ddp functions": Case(build=Functions, wrap=ddp),
    "ddp unused": Case(build=SometimesUsed, wrap=partial(ddp, find_unused_parameters=True)),
    "ddp packed lstm": Case(build=Reader, wrap=ddp),
    "ddp uneven": Case(build=Gated, wrap=ddp, steps=lambda rank: STEPS - 3 * rank, exact=False),
    "ddp one watched": Case(build=Reader, wrap=ddp, alone=True, exact=False),
    "by hand": Case(build=Gated, wrap=lambda model: model, exact=False),
    "fsdp": Case(build=Gated, wrap=fsdp),
    "fsdp accumulates": Case(build=Gated, wrap=fsdp, micro=3, clip=0.01, optimizer=adam),
    "fsdp transformer": Case(build=Attends, wrap=partial(fsdp, reshard_after_forward=False)),
    "fsdp functions": Case(build=Functions, wrap=fsdp),
    "fsdp packed lstm": Case(build=Reader, wrap=fsdp),
    "fsdp attached before": Case(build=Reader, wrap=fsdp, first=True, exact=False),
    "fsdp one watched": Case(build=Reader, wrap=fsdp, alone=True, exact=False),
    "fsdp1": Case(build=Gated, wrap=fsdp1, exact=False),
    "fsdp mixed precision": Case(build=Gated, wrap=partial(fsdp, mp_policy=half), exact=False),
}


@dataclass
class Result:
    losses: list[float] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)


def train(case: Case, *, rank: int | None, trace: Path | None) -> Result:
    """Trains on the part of `rank`, or on the whole; `trace` is where to record it."""
    torch.manual_seed(0)
    model = case.build()
    result = Result()
    with ExitStack() as stack:
        scope = stack.enter_context(gradscope.attach(model, trace=trace)) if trace and case.first else None
        running = model if rank is None else case.wrap(model)
        optimizer = case.optimizer(running.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=case.scaler)
        if trace and scope is None:
            attached = running.module if case.inner and isinstance(running, DistributedDataParallel) else running
            given = {"optimizer": optimizer, "scaler": scaler if case.scaler else None, "trace": trace}
            scope = stack.enter_context(gradscope.attach(attached, **given))
        elif scope is not None and case.exact:
            scope.watch(optimizer)
        if case.steps(1) < STEPS and isinstance(running, DistributedDataParallel):
            stack.enter_context(running.join())
        for step in range(STEPS if rank is None else case.steps(rank)):
            optimizer.zero_grad()
            for micro in range(case.micro):
                spoilt = case.spoilt
                x, y = whole(step, micro, spoilt=spoilt) if rank is None else data(step, micro, rank, spoilt=spoilt)
                with _unsynchronised(running) if micro < case.micro - 1 else nullcontext():
                    loss = nn.functional.mse_loss(running(x), y) / case.micro
                    scaler.scale(loss).backward()
                result.losses.append(loss.item())
                if scope is not None:
                    scope.record_loss(loss)
            if rank is not None and running is model and not isinstance(model, FSDPModule):
                average(model)
            if case.clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(running.parameters(), case.clip)
            scaler.step(optimizer)
            scaler.update()
    result.parameters = [getattr(p, "_local_tensor", p).detach().clone() for p in running.parameters()]
    return result


def average(model: nn.Module) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        distributed.all_reduce(parameter.grad)
        parameter.grad /= RANKS


def _unsynchronised(model: nn.Module) -> "ExitStack":
    stack = ExitStack()
    if isinstance(model, DistributedDataParallel):
        stack.enter_context(model.no_sync())
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        stack.callback(model.set_requires_gradient_sync, True)
    return stack


def chosen() -> Iterator[tuple[str, Case]]:
    wanted = os.environ.get("CASES", "")
    yield from ((name, case) for name, case in CASES.items() if wanted in name)


def main(rank: int, port: str, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    distributed.device_mesh.init_device_mesh("cpu", (RANKS,))
    for name, case in chosen():
        with_dtype = torch.float32 if name.endswith("precision") else torch.float64
        torch.set_default_dtype(with_dtype)
        bare = train(case, rank=rank, trace=None)
        watched = train(case, rank=rank, trace=None if case.alone and rank else folder / f"{name}.h5")
        torch.save([(r.losses, r.parameters) for r in (bare, watched)], folder / f"{name}.rank{rank}.pt")
        print(name, flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

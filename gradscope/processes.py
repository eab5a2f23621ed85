"""The processes of a distributed run, as seen from one of them. Nothing here, or in a hook, waits for the others.

A collective that one rank runs alone, be it `full_tensor()` or a norm of a DTensor, hangs the training. So each rank
measures what lies in its own memory, and `ranks.merge` adds it up afterwards.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, distributed, nn

_ORDINARY = (Tensor, nn.Parameter)


class Place(NamedTuple):
    """Which of how many processes this is."""

    rank: int
    world_size: int


def place() -> Place | None:
    """The place of this process among those that train together; None if it is alone.

    Before `init_process_group` it is what torchrun, or another launcher, has put into the environment.
    """
    if distributed.is_available() and distributed.is_initialized():
        found = Place(distributed.get_rank(), distributed.get_world_size())
    else:
        rank, world_size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        if not (rank.isdecimal() and world_size.isdecimal()):
            return None
        found = Place(int(rank), int(world_size))
    return found if found.world_size > 1 else None


def file_of(path: str | Path, rank: int) -> Path:
    """Where `rank` writes if the user said `path`: run.rank1.h5 for run.h5."""
    path = Path(path)
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


def local(x: Tensor) -> Tensor:
    """What of `x` lies in the memory of this process: a DTensor's shard; any other tensor itself."""
    if type(x) in _ORDINARY:
        return x
    part = getattr(x, "_local_tensor", None)
    return part if isinstance(part, Tensor) else x


def are_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether some of `parameters` are DTensors: FSDP2's, or those of tensor parallelism."""
    return any(local(parameter) is not parameter for parameter in parameters)

"""Small traces by hand, a line each."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gradscope.findings import Json
from gradscope.records import COLUMN, STATISTICS, Quantity, Site, Statistic
from gradscope.trace import StepRecord, Trace, TraceBuilder


def trace_of(
    *,
    steps: int = 10,
    types: str | Sequence[str] = "Linear",
    modules: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    numel: float = 1000.0,
    loss: ArrayLike = np.nan,
    lr: float = 0.1,
    every: int = 1,
    meta: Mapping[str, Json] | None = None,
    **measured: ArrayLike,
) -> Trace:
    """A trace from arrays called `<quantity>_<statistic>`, each of shape (depth,) or (step, depth).

    Depth runs from the input (index 0, depth 1) to the output. A parameter's site is called "weight"; the name of any
    other quantity's sites is `names[quantity]`, "" by default. Where a value is NaN the site was not observed.
    """
    values = {}
    for key, array in measured.items():
        quantity, stat = _split(key)
        array = np.asarray(array, dtype=np.float64)
        if array.ndim == 2:
            steps = len(array)
        values[quantity, stat] = array
    depth = max(a.shape[-1] for a in values.values())
    modules = modules or [str(i) for i in range(depth)]
    types = [types] * depth if isinstance(types, str) else types
    default_names = {q.value: "weight" for q in Quantity if q.value.startswith(("weight", "applied"))}
    sites, columns = [], {}
    for quantity in dict.fromkeys(q for q, _ in values):
        for i in range(values[next(k for k in values if k[0] == quantity)].shape[-1]):
            columns[quantity, i] = len(sites)
            name = (names or {}).get(quantity, default_names.get(quantity, ""))
            sites.append(
                Site(module=modules[i], module_type=types[i], quantity=Quantity(quantity), name=name, depth=i + 1)
            )
    table = np.full((steps, len(sites), len(STATISTICS)), np.nan, dtype=np.float32)
    for (quantity, stat), array in values.items():
        array = np.broadcast_to(array, (steps, array.shape[-1]))
        for i in range(array.shape[-1]):
            table[:, columns[quantity, i], COLUMN[stat]] = array[:, i]
    seen = ~np.isnan(table).all(axis=2)
    for stat, default in (("numel", numel), ("nonfinite_count", 0.0)):
        column = table[:, :, COLUMN[stat]]
        column[seen & np.isnan(column)] = default
    losses = np.broadcast_to(np.asarray(loss, dtype=np.float64), (steps,))
    builder = TraceBuilder()
    for row in range(steps):
        builder.append(
            StepRecord(
                step=row * every,
                per_step={"loss": float(losses[row]), "lr": lr},
                values=table[row],
                time_index=np.zeros((0, 2), np.int32),
                time_values=np.zeros((0, len(STATISTICS)), np.float32),
            ),
            sites,
            {},
        )
    return builder.finish(sites, meta or {})


def _split(key: str) -> tuple[str, str]:
    for quantity in sorted((q.value for q in Quantity), key=len, reverse=True):
        if key.startswith(quantity + "_") and key[len(quantity) + 1 :] in {s.value for s in Statistic}:
            return quantity, key[len(quantity) + 1 :]
    raise ValueError(f"{key!r} is not <quantity>_<statistic>")

"""Small traces by hand, a line each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from gradscope.findings import Json
from gradscope.links import INPUT, OUTPUT, End, Link, Links, Side
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


def joined(first: Trace, second: Trace) -> Trace:
    """Two traces of the same steps as one: of sites that one call of `trace_of` cannot have."""
    return replace(
        first,
        sites=first.sites + second.sites,
        statistics={s: np.concatenate([first.statistics[s], second.statistics[s]], axis=1) for s in STATISTICS},
    )


def rank_trace(rank: int, world_size: int = 2, *, steps: int = 10, **given: ArrayLike | Json) -> Trace:
    """The trace of one of several ranks; what is no `<quantity>_<statistic>` goes into its metadata."""
    about: dict[str, Json] = {"rank": rank, "world_size": world_size, "parameters": "replicated"}
    statistics = tuple(s.value for s in Statistic)
    measured = {key: value for key, value in given.items() if key.endswith(statistics)} or {"output_rms": [1.0]}
    meta = {key: value for key, value in given.items() if key not in measured}
    return trace_of(steps=steps, meta={"model": "Net", "distributed": about, **meta}, **measured)


def recurrent_trace(
    values: Mapping[str, ArrayLike],
    *,
    mode: str = "RNN_TANH",
    module: str = "rnn",
    steps: int = 10,
    every: int = 1,
    numel: ArrayLike = 64.0,
    nonfinite: ArrayLike = 0.0,
    spectrum: tuple[float, float] = (np.nan, np.nan),
    loss: ArrayLike = np.nan,
) -> Trace:
    """A trace of one recurrent module, from arrays of shape (time,) or (step, time) called "<quantity> <name>".

    They are the rms, and for a gate the mean; where they are NaN nothing was observed. `numel` and `nonfinite` are of
    the gradients, of a shape that broadcasts to theirs. `spectrum` is the radius and norm of the recurrent matrix, in
    the first step only. As in a recording, what was observed once in a step, at time 0, has no row of its time.
    """
    arrays = {key: np.atleast_2d(np.asarray(array, dtype=np.float64)) for key, array in values.items()}
    given = max(map(len, arrays.values()))
    steps = given if given > 1 else steps
    sites = []
    table = np.full((steps, len(arrays), len(STATISTICS)), np.nan, dtype=np.float32)
    index: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    rows: list[list[np.ndarray]] = [[] for _ in range(steps)]
    for column, (key, array) in enumerate(arrays.items()):
        quantity, _, name = key.partition(" ")
        kind = {"RNN_TANH": "RNN", "RNN_RELU": "RNN"}.get(mode, mode) or "Cell"
        whole = quantity == "total_norm"  # one number, of the model
        at, of = ("", "Model") if whole else (module, kind)
        depth = -1 if whole else 1
        sites.append(Site(module=at, module_type=of, quantity=Quantity(quantity), name=name, depth=depth))
        array = np.broadcast_to(array, (steps, array.shape[1]))
        graded = quantity == "state_grad"
        size = np.broadcast_to(np.asarray(numel if graded else 1.0 if whole else 64.0, dtype=np.float64), array.shape)
        broken = np.broadcast_to(np.asarray(nonfinite if graded else 0.0, dtype=np.float64), array.shape)
        for step in range(steps):
            times = np.flatnonzero(~np.isnan(array[step]))
            made = np.full((len(times), len(STATISTICS)), np.nan, dtype=np.float32)
            made[:, COLUMN["numel"]] = size[step, times]
            made[:, COLUMN["nonfinite_count"]] = broken[step, times]
            made[:, COLUMN["mean" if quantity == "gate" else "rms"]] = array[step, times]
            made[:, COLUMN["l2_norm"]] = array[step, times] * np.sqrt(size[step, times])
            made[:, COLUMN["zero_fraction"]] = array[step, times] == 0
            if len(times):
                table[step, column] = made.mean(axis=0)
            if len(times) > 1 or times.any():
                index[step] += [(column, int(time)) for time in times]
                rows[step] += list(made)
    has_matrix = [i for i, site in enumerate(sites) if site.quantity in (Quantity.STATE, Quantity.GATE)]
    table[0, has_matrix, COLUMN["spectral_radius"]], table[0, has_matrix, COLUMN["spectral_norm"]] = spectrum
    losses = np.broadcast_to(np.asarray(loss, dtype=np.float64), (steps,))
    builder = TraceBuilder()
    for step in range(steps):
        builder.append(
            StepRecord(
                step=step * every,
                per_step={"loss": float(losses[step])},
                values=table[step],
                time_index=np.array(index[step], dtype=np.int32).reshape(-1, 2),
                time_values=np.array(rows[step], dtype=np.float32).reshape(-1, len(STATISTICS)),
            ),
            sites,
            {},
        )
    return builder.finish(sites, {"recurrent": {module: mode}} if mode else {})


def read_at_the_end(gain: ArrayLike, length: int = 60, suffix: str = "l0") -> dict[str, ArrayLike]:
    """What a loss on the last step makes, for `recurrent_trace`: the gradient keeps `gain` on each step back.

    `gain` may differ by step, then of shape (step, 1). A suffix "l0_reverse" reads at position 0.
    """
    total = np.asarray(gain, dtype=np.float64) ** np.arange(length)[::-1]
    carried = np.where(np.arange(length) == length - 1, 0.0, total)
    way = slice(None, None, -1 if suffix.endswith("_reverse") else 1)
    return {f"state_grad h_{suffix}": total[..., way], f"state_grad h_{suffix}.carried": carried[..., way]}


def links(*edges: tuple[str, str], through: tuple[str, ...] = ()) -> Links:
    """A graph of edges `(from, to)`: "a" is what a returns, "a?" what it was given, "a@1" its second call."""
    made = Links()
    for source, target in edges:
        (one, one_call), (other, other_call) = end(source, Side.RETURNED), end(target, Side.GIVEN)
        made.add(Link(one, other, through), one_call, other_call)
    return made


def chain(*names: str) -> list[tuple[str, str]]:
    """The edges of one after the other."""
    return list(pairwise(names))


def end(written: str, side: Side) -> tuple[End, int]:
    """One end of such an edge, and the number of the call."""
    name, _, call = written.partition("@")
    side = Side.GIVEN if name.endswith("?") else side
    return End({"in": INPUT, "out": OUTPUT}.get(name, name.rstrip("?")), side), int(call or 0)


def _split(key: str) -> tuple[str, str]:
    for quantity in sorted((q.value for q in Quantity), key=len, reverse=True):
        if key.startswith(quantity + "_") and key[len(quantity) + 1 :] in {s.value for s in Statistic}:
            return quantity, key[len(quantity) + 1 :]
    raise ValueError(f"{key!r} is not <quantity>_<statistic>")

"""Recordings without a model: what the tests of the trace on disk write, in this process or in one that will be killed.

`python tests/synthetic.py PATH SEED END` appends the steps of `run(SEED)` to PATH, printing the number of steps after
each, until it has appended 1000 of them, or END after 20: "raise", "exit" or "return".
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import TraceError
from gradscope.findings import Json
from gradscope.records import STATISTICS, Event, Quantity, Site
from gradscope.storage import TraceWriter, read_trace
from gradscope.trace import PER_STEP, StepRecord, Trace, TraceBuilder

Appended: TypeAlias = tuple[StepRecord, tuple[Site, ...], Mapping[str, Json]]


def run(seed: int, *, sites: int = 20) -> Iterator[Appended]:
    """Endlessly: steps in which new sites appear, depths become known, and some sites have a time axis."""
    rng = np.random.default_rng(seed)
    known = 3
    for step in range(sys.maxsize):
        known += int(known < sites and rng.random() < 0.2) * int(rng.integers(1, 9))
        values = rng.standard_normal((known, len(STATISTICS))).astype(np.float32)
        values[rng.random(known) < 0.3] = np.nan
        values[:, -1] = np.nan  # a statistic that nothing has
        rows = int(rng.integers(0, 12)) if step % 5 else 0
        index = np.stack([rng.integers(0, known, rows), np.arange(rows)], axis=1).astype(np.int32)
        record = StepRecord(
            step=3 * step,
            per_step={name: float(rng.standard_normal()) for name in PER_STEP if rng.random() < 0.9},
            values=values,
            time_index=index,
            time_values=rng.standard_normal((rows, len(STATISTICS))).astype(np.float32),
            events=(Event(step=3 * step, kind="probe-failed", message="ψ\n" * 3),) if rng.random() < 0.1 else (),
            silent=[(site, rng.random(5 + 4 * site) < 0.5) for site in range(0, known, 2)] if step % 4 else (),
        )
        yield record, tuple(_site(i, seen=step > 4) for i in range(known)), {"model": "Net", "steps": step}


def _site(index: int, *, seen: bool) -> Site:
    return Site(
        module=f"Schicht.{index}.größe" * (1 + 20 * (index % 7 == 3)),  # some too long for a column of the file
        module_type="Linear",
        quantity=list(Quantity)[index % len(Quantity)],
        name="weight",
        depth=index if seen else -1,
    )


def collected(appended: Iterable[Appended], events: tuple[Event, ...] = ()) -> Trace:
    """The trace that a recording in memory would be."""
    builder = TraceBuilder()
    sites: tuple[Site, ...] = ()
    meta: Mapping[str, Json] = {}
    for record, sites, meta in appended:
        builder.append(record, sites, meta)
    return builder.finish(sites, meta, events)


def _bits(values: NDArray[np.generic]) -> bytes:
    """Every bit, but for the payloads of NaN: it means never observed, and what is NaN throughout is not written."""
    if np.issubdtype(values.dtype, np.floating):
        values = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
    return np.ascontiguousarray(values).tobytes()


def assert_same(one: Trace, other: Trace) -> None:
    """The two are equal to the last bit, one NaN being as good as another."""
    assert dict(one.meta) == dict(other.meta)
    assert one.sites == other.sites
    assert one.events == other.events
    arrays = {"steps": (one.steps, other.steps)}
    arrays |= {
        f"time {a}": (getattr(one.times, a), getattr(other.times, a)) for a in ("step", "site", "time", "values")
    }
    arrays |= {
        f"units {a}": (getattr(one.units, a), getattr(other.units, a)) for a in ("step", "site", "units", "bits")
    }
    assert (one.ranks is None) is (other.ranks is None)
    if one.ranks is not None and other.ranks is not None:
        assert one.ranks.ranks == other.ranks.ranks
        arrays |= {f"{name} by rank": (a, other.ranks.statistics[name]) for name, a in one.ranks.statistics.items()}
    arrays |= {name: (one.per_step[name], other.per_step[name]) for name in PER_STEP}
    arrays |= {s.value: (one.statistics[s], other.statistics[s]) for s in STATISTICS}
    for name, (a, b) in arrays.items():
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert _bits(a) == _bits(b), name


def read_or_refused(path: Path) -> Trace | str:
    """The trace, or the sentence that says why there is none; any other error is an error."""
    try:
        return read_trace(path)
    except TraceError as error:
        return str(error)


def main(path: str, seed: str, end: str) -> None:
    """Appends; the writer is not closed."""
    writer = TraceWriter(path)
    for count, appended in enumerate(islice(run(int(seed)), 1000), start=1):
        writer.append(*appended)
        print(count, flush=True)
        if count == 20 and end == "raise":
            raise RuntimeError("the training failed")
        if count == 20 and end == "exit":
            sys.exit(3)
        if count == 20 and end == "return":
            return
    sys.stdin.read()  # until somebody kills it


if __name__ == "__main__":
    main(*sys.argv[1:])

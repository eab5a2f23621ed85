"""What a trace is on disk, and the reader, which trusts nothing that it finds there. `storage` writes.

A file is readable while it is being written, and after the writer was killed: data are appended and flushed first, then
the counters in ``/committed`` say how much of them is valid. Nothing that a counter has covered changes its value.
HDF5's SWMR mode (single writer, multiple readers) keeps its own tables in order, and decides the form of the rest: once
it is on, no dataset, group or attribute can be created, and no text of variable length written. So all datasets exist
from the start, values per time are in long form, and texts that change during a run (metadata, sites) are written again
behind the old ones.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from gradscope.errors import TraceError
from gradscope.findings import Json
from gradscope.packed import Packed, Statistics, is_sound
from gradscope.records import STATISTICS, Event, Quantity, Site, Statistic
from gradscope.trace import BY_RANK, PER_STEP, Floats, RankTable, TimeTable, Trace, UnitTable, no_units
from gradscope.unclosed import SIGNATURE, unclosed_file

FORMAT = b"gradscope trace"  # root attribute "format"
SCHEMA_VERSION = 4  # root attribute "schema"

# Schema versions:
# 1: gradscope 0.1, the first.
# 2: the statistics spectral_radius and spectral_norm. In files of schema 1 they were never observed.
# 3: the statistics attention_entropy and max_logit, and sites of functions: module "block.relu#0", no name of a module;
#    /units and /ranks, with two more counters.
# 4: the statistics sample_spread, direction_spread and carried_fraction.

BLOCK = 16  # steps that are buffered, and that share a chunk; smaller blocks double the size of the file


class Counters(NamedTuple):
    """How much of a file is valid."""

    steps: int = 0
    times: int = 0  # rows of /time
    event_bytes: int = 0
    sites_start: int = 0
    sites_stop: int = 0
    document_start: int = 0
    document_stop: int = 0
    units: int = 0  # rows of /units
    unit_bytes: int = 0


class Column(NamedTuple):
    """One dataset: the type of its elements, and what it has one of them for."""

    dtype: str
    axes: tuple[str, ...]


# Root attributes: "format" (bytes, FORMAT), "schema" (int64), "gradscope" (bytes, the version that wrote the file).
# Every dataset grows along its axes, except "counter"; it may be longer than its counter says: the rest is not valid.
# All but /committed are chunked, compressed by shuffle + gzip and protected by fletcher32.
SCHEMA: Mapping[str, Column] = {
    # How much is valid, in the order of `Counters`. Written and flushed after everything that it speaks of.
    "committed": Column("<i8", ("counter",)),
    # JSON texts, UTF-8, end to end; valid is the one from document_start to document_stop:
    # {"meta": {…}, "events": [events that belong to no step], "texts": [[site, column, text], …]}
    # "texts" has what the columns of /sites cannot hold: long names, and a zero byte at the end.
    "document": Column("|u1", ("document byte",)),
    # One JSON text a line: {"step": …, "kind": …, "module": …, "message": …}
    "events": Column("|u1", ("event byte",)),
    # Valid are the rows from sites_start to sites_stop; row i of them is about column i of /stats. UTF-8, zero-padded.
    "sites/module": Column("|S256", ("site row",)),
    "sites/module_type": Column("|S128", ("site row",)),
    "sites/quantity": Column("|S32", ("site row",)),
    "sites/name": Column("|S128", ("site row",)),
    "sites/depth": Column("<i8", ("site row",)),
    # Recorded steps.
    "steps/step": Column("<i8", ("step",)),
    **{f"steps/{name}": Column("<f8", ("step",)) for name in PER_STEP},
    # Over all executions of a step. NaN: not observed; also in steps and sites that a dataset is too short for.
    **{f"stats/{statistic.value}": Column("<f4", ("step", "site")) for statistic in STATISTICS},
    # Row i is of the step with index step[i] in /steps, of site[i], at time[i].
    "time/step": Column("<i4", ("time row",)),
    "time/site": Column("<i4", ("time row",)),
    "time/time": Column("<i4", ("time row",)),
    **{f"time/{statistic.value}": Column("<f4", ("time row",)) for statistic in STATISTICS},
    # Of one of several ranks: row i is of the step with index step[i], of site[i], of whose units count[i] there are.
    # Which were silent are the next ⌈count/8⌉ bytes of /units/silent, the first unit in the highest bit.
    "units/step": Column("<i4", ("unit row",)),
    "units/site": Column("<i4", ("unit row",)),
    "units/count": Column("<i4", ("unit row",)),
    "units/silent": Column("|u1", ("unit byte",)),
    # Of several ranks, merged: what each measured. Their numbers are in the metadata, distributed.ranks.
    **{f"ranks/{statistic.value}": Column("<f4", ("step", "site", "rank")) for statistic in BY_RANK},
}

_ADDED = {  # statistics that a schema brought
    2: (Statistic.SPECTRAL_RADIUS, Statistic.SPECTRAL_NORM),
    3: (Statistic.ATTENTION_ENTROPY, Statistic.MAX_LOGIT),
    4: (Statistic.SAMPLE_SPREAD, Statistic.DIRECTION_SPREAD, Statistic.CARRIED_FRACTION),
}

_COUNTERS_BEFORE_3 = 7

SITE_TEXTS = ("module", "module_type", "quantity", "name")

_SITE_COLUMNS = (*SITE_TEXTS, "depth")
_UNIT_COLUMNS = ("step", "site", "count")
_TIME_INDEX = ("step", "site", "time")
_TIME_COLUMNS = (*_TIME_INDEX, *(s.value for s in STATISTICS))
_WRITTEN_WITH = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]  # in this order
_INFLATION = 1032  # deflate cannot shrink data by more than this
_ALWAYS_ALLOWED = 1 << 28  # bytes that a file may declare whatever its own size: chunks of NaN only are left out
_TEXT_ALLOWED, _TEXT_INFLATION = 1 << 24, 64  # the same for JSON, of which a byte can become 50 in memory
# what h5py, json and numpy raise on a file that is not as it should be
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, MemoryError)

Numbers: TypeAlias = NDArray[np.generic]


def read_trace(path: str | Path) -> Trace:
    """The trace in the file `path`. The file may be one that is being written, or whose writer was killed.

    Raises:
        TraceError: There is no such file, it is no trace, it is of a later version of gradscope, or it is damaged.
    """
    for last in (*[False] * 9, True):
        require_file(path)
        before = os.stat(path)
        try:
            with opened(path) as file:
                require_schema(file, path)
                return read_open(file, before.st_size)
        except DAMAGE as damage:
            after = os.stat(path)
            written = (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size)
            if last or not written:  # else a block may have been read half
                raise TraceError(f"{path} is truncated or damaged: {reason(damage)}.") from damage
    raise AssertionError("the last try returns or raises")


def require_trace(path: str | Path) -> None:
    """Raises as `read_trace`, as far as the beginning of the file and its attributes tell."""
    require_file(path)
    try:
        with opened(path) as file:
            require_schema(file, path)
    except DAMAGE as damage:
        raise TraceError(f"{path} is truncated or damaged: {reason(damage)}.") from damage


def require_file(path: str | Path) -> None:
    """Raises a `TraceError` where `path` is not a readable HDF5 file."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise TraceError(f"{path} is no file{' but a folder' * stat.S_ISDIR(mode)}; a trace is a single HDF5 file.")
        with open(path, "rb") as raw:
            start = raw.read(len(SIGNATURE))
    except FileNotFoundError as error:
        raise TraceError(f"{path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read: {reason(error)}.") from error
    if start != SIGNATURE:
        raise TraceError(f"{path} is no gradscope trace: it is not HDF5.")


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """The file, for reading. Without locks: a reader must never be in the way of the training that writes."""
    with ExitStack() as stack:
        unclosed = unclosed_file(path)
        if unclosed is None:
            yield stack.enter_context(h5py.File(path, "r", locking=False))
        else:
            stack.callback(unclosed.close)
            yield stack.enter_context(h5py.File(unclosed, "r"))


def require_schema(file: h5py.File, path: str | Path) -> None:
    """Raises a `TraceError` where `file`, which lies at `path`, is no trace that this version reads."""
    form, schema, version = _attributes(file)
    if form != FORMAT:
        raise TraceError(f"{path} is no gradscope trace: it is HDF5 of something else.")
    if not 1 <= schema <= SCHEMA_VERSION:
        reads = f"schemas 1 to {SCHEMA_VERSION}" if SCHEMA_VERSION > 1 else "schema 1"
        raise TraceError(
            f"{path} was written by gradscope {version.decode(errors='replace')} (schema {schema}); "
            f"this version reads {reads}. Upgrade gradscope to read it."
        )


def _attributes(file: h5py.File) -> tuple[bytes, int, bytes]:
    """The root attributes; empty or 0 where one is missing or of another type."""

    def of_type(name: str, kind: str) -> bytes | int:
        empty: bytes | int = b"" if kind == "S" else 0
        if not h5py.h5a.exists(file.id, name.encode()):
            return empty
        attribute = h5py.h5a.open(file.id, name.encode())
        small = attribute.shape == () and attribute.dtype.kind == kind and attribute.dtype.itemsize <= 64
        return cast("bytes | int", file.attrs[name].item()) if small else empty

    return bytes(of_type("format", "S")), int(of_type("schema", "i")), bytes(of_type("gradscope", "S"))


class Piece(NamedTuple):
    """Some steps of a file.

    Attributes:
        trace: Those steps, with all sites and the metadata as they are now.
        late: How many of its events, the last ones, belong to no recorded step.
        end: Up to where it goes.
        committed: Up to where the file goes.
    """

    trace: Trace
    late: int
    end: Counters
    committed: Counters


def read_open(file: h5py.File, size: int) -> Trace:
    """The committed part of an open file of `size` bytes.

    Raises:
        ValueError: The file is damaged; or any other of `DAMAGE`.
    """
    return read_piece(file, size).trace


def read_piece(file: h5py.File, size: int, since: Counters = Counters(), most: int | None = None) -> Piece:  # noqa: B008
    """The steps of an open file of `size` bytes that were committed after `since`, at most `most` of them.

    What only a merge reads, the silent units and what each rank has measured, is left out unless all is read.

    Raises:
        ValueError: The file is damaged; or any other of `DAMAGE`.
    """
    allowed = max(_ALWAYS_ALLOWED, _INFLATION * size)
    # first the counters, then what they speak of: a running writer only adds to it
    schema = _attributes(file)[1]
    counters = _committed(file, schema, size, allowed)
    if any(now < before for now, before in zip(counters[:3], since[:3], strict=True)):
        raise ValueError(f"its counters are {tuple(counters)}, and were {tuple(since)}")
    sites_start, sites_stop, whole = counters.sites_start, counters.sites_stop, most is None
    stop = counters.steps if most is None else min(counters.steps, since.steps + most)

    def read(name: str, start: int, stop: int) -> Numbers:
        return _rows(_dataset(file, name, allowed), start, stop)

    text = read("document", counters.document_start, counters.document_stop).tobytes()
    document = cast("dict[str, Json]", _of(dict, json.loads(text), "the document"))
    texts, late = (cast("list[Json]", _of(list, document[name], name)) for name in ("texts", "events"))
    sites = _sites({name: read(f"sites/{name}", sites_start, sites_stop) for name in _SITE_COLUMNS}, texts)
    early = [
        json.loads(line) for line in read("events", since.event_bytes, counters.event_bytes).tobytes().splitlines()
    ]
    held = [s.value for s in STATISTICS if not any(s in added for since, added in _ADDED.items() if since > schema)]

    def statistics(group: str, start: int, *shape: int) -> Statistics:
        tables: dict[str, Packed | Floats] = {s.value: Packed(shape, (), {}) for s in STATISTICS}
        return Statistics(
            tables | {s: _table(_dataset(file, f"{group}/{s}", allowed), shape, size, start) for s in held}
        )

    index = {name: read(f"time/{name}", since.times, counters.times) for name in _TIME_INDEX}
    if stop < counters.steps:
        index = {name: values[: np.searchsorted(index["step"], stop)] for name, values in index.items()}
    times = len(index["step"])
    if since.steps:
        index["step"] = cast("NDArray[np.int32]", index["step"]) - np.int32(since.steps)
    silent = {name: read(f"units/{name}", 0, counters.units) for name in _UNIT_COLUMNS if whole and counters.units}
    if silent:
        silent["silent"] = read("units/silent", 0, counters.unit_bytes)
    steps = stop - since.steps
    trace = Trace(
        meta=cast("dict[str, Json]", _of(dict, document["meta"], "meta")),
        sites=sites,
        steps=cast("NDArray[np.int64]", read("steps/step", since.steps, stop)),
        per_step={name: cast("NDArray[np.float64]", read(f"steps/{name}", since.steps, stop)) for name in PER_STEP},
        statistics=statistics("stats", since.steps, steps, len(sites)),
        times=_times(index, statistics("time", since.times, times), steps, len(sites), allowed),
        events=tuple(_event(event) for event in [*early, *late]),
        units=_units(silent, steps, len(sites)),
        ranks=_ranks(file, steps, len(sites), allowed, document["meta"]) if whole and schema > 2 else None,
    )
    end = counters._replace(steps=stop, times=since.times + times)
    return Piece(trace, len(late), end, counters)


def _committed(file: h5py.File, schema: int, size: int, allowed: int) -> Counters:
    """How much of the file is valid; it is no more than the file can hold."""
    committed = _dataset(file, "committed", allowed)
    if committed.shape != (len(Counters()) if schema > 2 else _COUNTERS_BEFORE_3,):
        raise ValueError(f"committed has shape {committed.shape}")
    counters = Counters(*committed[:].tolist())
    if min(counters) < 0:
        raise ValueError(f"its counters are {tuple(counters)}")
    steps, times, sites_start, sites_stop = counters.steps, counters.times, counters.sites_start, counters.sites_stop
    declared = (
        steps * (8 * (1 + len(PER_STEP)) + 4 * len(STATISTICS) * max(0, sites_stop - sites_start))
        + times * 4 * len(_TIME_COLUMNS)
        + counters.units * 12
        + counters.unit_bytes
        + sum((sites_stop - sites_start) * np.dtype(SCHEMA[f"sites/{name}"].dtype).itemsize for name in _SITE_COLUMNS)
    )
    texts_declared = counters.event_bytes + counters.document_stop - counters.document_start
    if declared > allowed or texts_declared > _TEXT_ALLOWED + _TEXT_INFLATION * size:
        raise ValueError(f"its {size} bytes cannot hold the {declared + texts_declared} that it declares")
    return counters


def _dataset(file: h5py.File, name: str, allowed: int) -> h5py.Dataset:
    """A dataset of the schema that lies in this file, with the type it should have; no link is followed."""
    where = file
    for part in name.split("/"):
        links = where.id.links
        if not links.exists(part.encode()) or links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{name} is missing")
        where = where[part]
    expected = SCHEMA[name]
    if not isinstance(where, h5py.Dataset) or where.dtype != np.dtype(expected.dtype):
        raise ValueError(f"{name} is not of type {expected.dtype}")
    if where.ndim != len(expected.axes):
        raise ValueError(f"{name} has shape {where.shape}")
    created = where.id.get_create_plist()
    if created.get_layout() not in (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS) or created.get_external_count():
        raise ValueError(f"{name} is stored elsewhere")  # a virtual dataset, or one in other files
    if not set(_filters(where)) <= set(_WRITTEN_WITH):
        raise ValueError(f"{name} is compressed by something else than gzip")
    if where.chunks and int(np.prod(where.chunks, dtype=object)) * where.dtype.itemsize > allowed:
        raise ValueError(f"{name} has chunks of shape {where.chunks}")
    return where


def _rows(dataset: h5py.Dataset, start: int, stop: int) -> Numbers:
    if not start <= stop <= dataset.shape[0]:
        raise ValueError(f"{dataset.name[1:]} has {dataset.shape[0]} rows, {start} to {stop} were committed")
    return np.asarray(dataset[start:stop])


def _table(dataset: h5py.Dataset, shape: tuple[int, ...], size: int, start: int) -> Packed | Floats:
    """(step, site) or (row,), from row `start` on.

    What a dataset of the former is too short for is NaN: it would be NaN throughout. Packed, where it is read from the
    beginning and lies in the file of `size` bytes as `storage` writes it.
    """
    there = (max(0, dataset.shape[0] - start), *dataset.shape[1:])
    held = tuple(min(pair) for pair in zip(shape, there, strict=True))
    if len(shape) == 1 and held != shape:
        raise ValueError(f"{dataset.name[1:]} has {dataset.shape[0]} rows, {start + shape[0]} were committed")
    parts = _parts(dataset, held, size) if not start else None
    if parts is not None:
        return Packed(shape, dataset.chunks, parts)
    if not all(held):
        return np.broadcast_to(np.float32(np.nan), shape)
    values = np.full(shape, np.nan, dtype=np.float32)
    inside = tuple(slice(stop) for stop in held)
    dataset.read_direct(values, (slice(start, start + held[0]), *inside[1:]), inside)
    return values


def _parts(dataset: h5py.Dataset, held: tuple[int, ...], size: int) -> dict[tuple[int, ...], bytes] | None:
    """The chunks as they are stored, all of them sound; None where they are not as `storage` writes them."""
    chunk = dataset.chunks
    if chunk is None or min(chunk) < BLOCK or _filters(dataset) != _WRITTEN_WITH:
        return None
    parts = {}
    for at in product(*(range(0, stop, step) for stop, step in zip(held, chunk, strict=True))):
        stored = dataset.id.get_chunk_info_by_coord(at)
        if stored.byte_offset is None:  # nothing was observed
            continue
        if stored.filter_mask:  # what does not shrink is left as it is
            return None
        if stored.size > size:
            raise ValueError(f"{dataset.name[1:]} has a chunk of {stored.size} bytes")
        parts[at] = dataset.id.read_direct_chunk(at)[1]
        if not is_sound(parts[at]):
            raise ValueError(f"{dataset.name[1:]} has a chunk with a wrong checksum")
    return parts


def _filters(dataset: h5py.Dataset) -> list[int]:
    created = dataset.id.get_create_plist()
    return [created.get_filter(i)[0] for i in range(created.get_nfilters())]


def _of(kind: type, value: Json, what: str) -> Json:
    """`value`, which must be a `kind`; JSON's true is no number."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{what} is {value!r:.60}, not of type {kind.__name__}")
    return value


def _sites(columns: Mapping[str, Numbers], texts: Sequence[Json]) -> tuple[Site, ...]:
    rows = {  # a text that is too long for its column may be cut within a character
        name: [text.decode(errors="replace") for text in cast("list[bytes]", columns[name].tolist())]
        for name in SITE_TEXTS
    }
    for item in texts:
        row, name, text = cast("list[Json]", _of(list, item, "a long text"))
        rows[str(name)][cast("int", _of(int, row, "a site"))] = str(_of(str, text, "a long text"))
    return tuple(
        Site(module=module, module_type=module_type, quantity=Quantity(quantity), name=name, depth=depth)
        for module, module_type, quantity, name, depth in zip(*rows.values(), columns["depth"].tolist(), strict=True)
    )


def _units(columns: Mapping[str, Numbers], steps: int, sites: int) -> UnitTable:
    if not columns:
        return no_units()
    step, site, count = (cast("NDArray[np.int32]", columns[name]) for name in _UNIT_COLUMNS)
    bits = cast("NDArray[np.uint8]", columns["silent"])
    for name, indices, end in (("step", step, steps), ("site", site, sites), ("count", count, 8 * len(bits) + 1)):
        if indices.min() < 0 or indices.max() >= end:
            raise ValueError(f"units/{name} goes from {indices.min()} to {indices.max()}, outside the trace")
    if (-(-count.astype(np.int64) // 8)).sum() != len(bits):
        raise ValueError(f"units/silent has {len(bits)} bytes, which is not what its units need")
    return UnitTable(step=step, site=site, units=count, bits=bits)


def _ranks(file: h5py.File, steps: int, sites: int, allowed: int, meta: Json) -> RankTable | None:
    datasets = {statistic.value: _dataset(file, f"ranks/{statistic.value}", allowed) for statistic in BY_RANK}
    about = meta.get("distributed") if isinstance(meta, dict) else None
    numbers = about.get("ranks") if isinstance(about, dict) else None
    if not isinstance(numbers, list):
        return None
    ranks = tuple(cast("int", _of(int, number, "a rank")) for number in numbers)
    if 4 * len(BY_RANK) * steps * sites * len(ranks) > allowed:
        raise ValueError(f"the file cannot hold what {len(ranks)} ranks have measured")
    statistics = {name: np.full((steps, sites, len(ranks)), np.nan, dtype=np.float32) for name in datasets}
    for name, dataset in datasets.items():
        held = np.s_[
            : min(steps, dataset.shape[0]), : min(sites, dataset.shape[1]), : min(len(ranks), dataset.shape[2])
        ]
        if all(part.stop for part in held):
            dataset.read_direct(statistics[name], held, held)
    return RankTable(ranks=ranks, statistics=statistics)


def _times(index: Mapping[str, Numbers], values: Statistics, steps: int, sites: int, allowed: int) -> TimeTable:
    step, site, time = (cast("NDArray[np.int32]", index[name]) for name in _TIME_INDEX)
    for name, indices, end in (("step", step, steps), ("site", site, sites), ("time", time, None)):
        if len(indices) and (indices.min() < 0 or (end is not None and indices.max() >= end)):
            raise ValueError(f"time/{name} goes from {indices.min()} to {indices.max()}, outside the trace")
    if len(time) and 4 * steps * (int(time.max()) + 1) > allowed:
        raise ValueError(f"time/time goes to {time.max()}, more than the file can hold")
    return TimeTable(step=step, site=site, time=time, statistics=values)


def _event(item: Json) -> Event:
    fields = cast("dict[str, Json]", _of(dict, item, "an event"))
    step = cast("int", _of(int, fields["step"], "an event's step"))
    texts = {name: str(_of(str, fields[name], f"an event's {name}")) for name in ("kind", "module", "message")}
    return Event(step=step, **texts)


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text.rstrip(".") or type(error).__name__

"""Traces go to disk: while a run lasts (`TraceWriter`), or as a whole (`save_trace`). `trace_file` has the format.

A run is written in blocks of 16 steps; where steps are slow, some before their block is full. The rest gets to the disk
before the process ends by itself, be it by an exception, by `sys.exit` or by SIGTERM; only what nobody can catch, as
kill -9, loses up to 16 steps.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from gradscope import at_exit
from gradscope.claim import claim
from gradscope.draft import draft_of
from gradscope.errors import TraceError
from gradscope.findings import Json
from gradscope.records import STATISTICS, Event, Site
from gradscope.trace import PER_STEP, StepRecord, Trace, TraceBuilder
from gradscope.trace_file import (
    BLOCK,
    FORMAT,
    SCHEMA,
    SCHEMA_VERSION,
    SITE_TEXTS,
    Counters,
    Numbers,
    read_open,
    reason,
    require_trace,
)
from gradscope.trace_file import read_trace as read_trace

_INDEX_CACHE = 256 * 1024
_PATIENCE_S = 3.0  # after which steps are written that do not fill a block: somebody may be looking on
_FAILURES = (OSError, RuntimeError, ValueError)  # what h5py raises where it cannot write


def save_trace(trace: Trace, path: str | Path) -> None:
    """Writes `trace` to `path`; a trace that lies there is replaced when the new one is complete.

    Raises:
        TraceError: `path` cannot be written, or holds something that is no trace.
    """
    target = _target(path)
    try:
        with draft_of(target) as draft:
            _write_whole(trace, draft)
            os.replace(draft, target)
    except _FAILURES as error:
        raise TraceError(f"{path} cannot be written: {reason(error)}.") from error


@dataclasses.dataclass(slots=True)
class _Block:
    """The steps that are not yet on disk, or only as a block that is not full."""

    at: Counters
    records: TraceBuilder = dataclasses.field(default_factory=TraceBuilder)
    steps: int = 0


class TraceWriter:
    """Streams the records of a run to HDF5, see `trace.Sink`. The file can be read while it is written.

    A trace that lies at `path` is replaced when the first step is appended, not before: a run that fails at once does
    not cost the recording of the one before it. Where there is none, an empty trace is written at once.

    Raises:
        TraceError: `path` cannot be written, holds something that is no trace, or is being written by another writer.
    """

    _closed = True  # until there is something to close

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._target = _target(path)
        if any(isinstance(other, TraceWriter) and other._target == self._target for other in at_exit.pending()):
            raise TraceError(
                f"{path} is being written by another scope; call `detach()` on that one first, or name another file."
            )
        self.last_call: Callable[[], None] | None = None  # asked, before the end, for a step that is still to come
        self._file: h5py.File | None = None  # None until the first step
        self._block = _Block(Counters())
        self._early = 0  # steps of the block that are on disk already
        self._flushed_at = time.monotonic()
        self._sites: Sequence[Site] = ()
        self._meta: Mapping[str, Json] = {}
        self._late: tuple[Event, ...] = ()
        self._late_on_disk = 0
        self._identity = (0, 0)
        self._lock: int | None = None
        self._claim()
        self._keeps_older = self._target.exists() and self._target.stat().st_size > 0
        with self._failing(), draft_of(self._target) as draft:  # also where nothing is replaced: can it be written?
            _write_whole(TraceBuilder().finish((), {}), draft)
            if not self._keeps_older:
                os.replace(draft, self._target)
        self._claim()
        self._closed = False
        at_exit.add(self)

    def append(self, record: StepRecord, sites: Sequence[Site], meta: Mapping[str, Json]) -> None:
        """Adds a step; `sites` and `meta` are as of now. Every 16th call writes, and some of those that come slowly.

        Raises:
            TraceError: The writer is closed, or the disk is full; what was written before can be read.
        """
        with at_exit.undisturbed(), self._failing():
            if self._closed:
                raise TraceError(f"{self.path} is closed; nothing can be appended to it.")
            self._block.records.append(record, sites, meta)
            self._block.steps += 1
            self._sites, self._meta = sites, meta
            if self._file is None:
                self._begin(time_rows=BLOCK * len(record.time_index))
            if self._block.steps >= BLOCK or self._is_late():
                self._flush()

    def finish(self, sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event] = ()) -> Trace:
        """Writes what was appended so far and returns it; `events` are those that belong to no recorded step.

        Raises:
            TraceError: The file cannot be written or read.
        """
        with at_exit.undisturbed(), self._failing():
            self.note(sites, meta, events)
            if self._file is None:  # nothing was appended; an older trace stays
                return self._block.records.finish(sites, meta, events)
            if self._closed:
                return self._reread(meta, events)
            self._flush()
            return read_open(self._file, os.path.getsize(self._target))

    def note(self, sites: Sequence[Site], meta: Mapping[str, Json], events: Sequence[Event]) -> None:
        """What belongs to no recorded step, as of now; `close` writes it."""
        if not self._closed:
            self._sites, self._meta, self._late = sites, meta, tuple(events)

    def flush(self) -> None:
        """Writes what was appended so far, and what `last_call` appends. Raises as `close`."""
        with at_exit.undisturbed(), self._failing():
            if self.last_call is not None and not self._closed:
                self.last_call()
            if self._file is not None and not self._closed:
                self._flush()

    def close(self) -> None:
        """Writes what was appended so far and closes the file. Twice is once.

        Raises:
            TraceError: The file cannot be written.
        """
        with at_exit.undisturbed():
            if self._closed:
                return
            at_exit.discard(self)
            try:
                self.flush()
                with self._failing():
                    if self._file is not None:
                        self._file.close()
                    elif not self._keeps_older:
                        with draft_of(self._target) as draft:
                            _write_whole(self._block.records.finish(self._sites, self._meta, self._late), draft)
                            os.replace(draft, self._target)
            finally:
                self._closed = True
                self._release()

    def abandon(self) -> None:
        """Leaves the file as it is: in a fork, to the parent; and when it could not be written.

        HDF5 would write to it still, at the latest at the exit of the process, and mark it as complete.
        """
        self._closed = True
        if self._file is not None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._file.id.get_vfd_handle())
            os.close(nowhere)
            with suppress(*_FAILURES):  # it cannot make nowhere longer
                self._file.close()
        self._release()

    def __del__(self) -> None:
        at_exit.quietly(self.close)

    def _claim(self) -> None:
        """Takes the lock on what lies at the path: another process that writes there would lose one of the two runs.

        The lock goes with the process, however it ends; readers do not ask for it.

        Raises:
            TraceError: Another process holds it.
        """
        self._release()
        if not self._target.is_file():
            return
        try:
            self._lock = claim(self._target)
        except BlockingIOError:
            raise TraceError(
                f"{self.path} is being written by another process; name another file, or end that run first."
            ) from None

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _begin(self, *, time_rows: int) -> None:
        """Replaces what lies at the path by a trace without steps, and opens it so that others can read along."""
        with draft_of(self._target) as draft:
            with _create(draft, sites=len(self._sites), time_rows=time_rows) as file:
                _Tables(file).commit(Counters(), self._sites, self._meta, self._late)
            os.replace(draft, self._target)
        # `File.swmr_mode = True` takes two steps, and a file whose writer was killed between them cannot be read.
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
        access.set_file_locking(False, True)
        access.set_cache(0, 1, 0, 0.75)
        index = access.get_mdc_config()  # of the chunks: of a long run's HDF5 would keep up to 32 MB
        index.initial_size = index.min_size = index.max_size = _INDEX_CACHE
        access.set_mdc_config(index)
        flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
        self._claim()
        file = h5py.File(h5py.h5f.open(os.fsencode(self._target), flags, fapl=access))
        self._tables = _Tables(file)
        self._identity = _identity(self._target)
        self._file = file

    def _is_late(self) -> bool:
        """Whether the steps of the block that are not on disk have waited long enough.

        A block is written again as a whole, and HDF5 gives the place of the older one to nobody while others may read
        it. So each time twice as many steps must have come: with 1, 2, 4, 8 and 16 of them a block takes two to three
        times the place of one that is written once, where after each step it would take nine.
        """
        return self._block.steps >= 2 * self._early and time.monotonic() - self._flushed_at > _PATIENCE_S

    def _flush(self) -> None:
        block = self._block
        end = self._tables.put(block.records.finish(self._sites, self._meta), block.at)
        self._tables.commit(end, self._sites, self._meta, self._late)
        self._late_on_disk = len(self._late)
        if block.steps >= BLOCK:  # else the next flush writes the block again, with the steps that were added
            self._block = _Block(end)
        self._early, self._flushed_at = self._block.steps, time.monotonic()

    def _reread(self, meta: Mapping[str, Json], events: Sequence[Event]) -> Trace:
        if _identity(self._target) != self._identity:
            raise TraceError(f"{self.path} was replaced after the recording had ended; read it with `read_trace`.")
        trace = read_trace(self._target)
        early = trace.events[: len(trace.events) - self._late_on_disk]
        return dataclasses.replace(trace, meta=dict(meta), events=(*early, *events))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """A file that could not be written once is left alone; what was committed before can be read."""
        try:
            yield
        except _FAILURES as error:
            at_exit.discard(self)
            if not self._closed:
                self.abandon()
            raise TraceError(f"{self.path} cannot be written: {reason(error)}.") from error


class _Tables:
    """The datasets of an open trace file. `put` writes rows, `commit` makes them valid."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._datasets = {name: file[name] for name in SCHEMA}
        self._committed = Counters(*file["committed"][:].tolist())
        self._sites: tuple[Site, ...] = ()  # as on disk, as the document
        self._document = ""
        self._texts: list[tuple[int, str, str]] = []

    def put(self, trace: Trace, at: Counters) -> Counters:
        """Writes the steps of `trace` behind `at`; they are valid once the result is committed."""
        self._write("steps/step", at.steps, trace.steps)
        for name in PER_STEP:
            self._write(f"steps/{name}", at.steps, trace.per_step[name])
        for statistic in STATISTICS:
            values = trace.statistics[statistic]
            if not np.isnan(values).all():  # many statistics have no meaning for any site
                self._write(f"stats/{statistic.value}", at.steps, values)
        times = trace.times
        self._write("time/step", at.times, times.step + np.int32(at.steps))
        self._write("time/site", at.times, times.site)
        self._write("time/time", at.times, times.time)
        for statistic in STATISTICS:
            self._write(f"time/{statistic.value}", at.times, times.statistics[statistic])
        units = trace.units
        self._write("units/step", at.units, units.step + np.int32(at.steps))
        self._write("units/site", at.units, units.site)
        self._write("units/count", at.units, units.units)
        self._write("units/silent", at.unit_bytes, units.bits)
        for name, values in trace.ranks.statistics.items() if trace.ranks is not None else ():
            self._write(f"ranks/{name}", at.steps, values)
        lines = "".join(json.dumps(dataclasses.asdict(event)) + "\n" for event in trace.events)
        self._write("events", at.event_bytes, _bytes(lines))
        return at._replace(
            steps=at.steps + len(trace.steps),
            times=at.times + len(times.step),
            event_bytes=at.event_bytes + len(lines),
            units=at.units + len(units.step),
            unit_bytes=at.unit_bytes + len(units.bits),
        )

    def commit(self, end: Counters, sites: Sequence[Site], meta: Mapping[str, Json], late: Sequence[Event]) -> None:
        """Writes what is about the whole trace, where it has changed, and then how much of everything is valid."""
        _, _, _, sites_start, sites_stop, start, stop, _, _ = self._committed
        if tuple(sites) != self._sites:
            columns, self._texts = _encoded(sites)
            for name, column in columns.items():
                self._write(f"sites/{name}", sites_stop, column)
            sites_start, sites_stop = sites_stop, sites_stop + len(sites)
        events = [dataclasses.asdict(event) for event in late]
        document = json.dumps({"meta": dict(meta), "events": events, "texts": self._texts}, default=str)
        if document != self._document:
            self._write("document", stop, _bytes(document))
            start, stop = stop, stop + len(document)
        self._file.flush()
        end = end._replace(sites_start=sites_start, sites_stop=sites_stop, document_start=start, document_stop=stop)
        self._datasets["committed"][:] = np.array(end, dtype=np.int64)
        self._file.flush()
        self._committed, self._sites, self._document = end, tuple(sites), document

    def _write(self, name: str, start: int, values: Numbers) -> None:
        """Writes `values` from row `start` on; the dataset grows by whole chunks, so less often."""
        if not len(values):
            return
        dataset = self._datasets[name]
        rows, *others = dataset.shape
        stop = start + len(values)
        if stop > rows or values.shape[1:] != tuple(others):
            chunk = dataset.chunks[0]
            dataset.resize((max(rows, -(-stop // chunk) * chunk), *values.shape[1:]))
        dataset[start:stop] = values


def _write_whole(trace: Trace, draft: Path) -> None:
    time_rows = BLOCK * len(trace.times.step) // max(1, len(trace.steps))
    with _create(draft, sites=len(trace.sites), time_rows=time_rows) as file:
        tables = _Tables(file)
        tables.commit(tables.put(trace, Counters()), trace.sites, trace.meta, ())


def _create(path: Path, *, sites: int, time_rows: int) -> h5py.File:
    """A new file with all datasets, empty. `sites` and `time_rows` are what to expect of a block; they may grow."""
    chunk = {
        "step": BLOCK,
        "site": max(sites, 16),
        "time row": min(max(time_rows, 256), 65536),  # a block is a chunk where every step has as many rows
        "site row": 64,
        "unit row": 256,
        "unit byte": 4096,
        "rank": 8,
        "event byte": 4096,
        "document byte": 4096,
    }
    file = h5py.File(path, "x", libver="latest", locking=False, rdcc_nbytes=0)
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs["schema"] = np.int64(SCHEMA_VERSION)
    file.attrs["gradscope"] = np.bytes_(version("gradscope").encode()[:64])
    for name, (dtype, axes) in SCHEMA.items():
        if axes == ("counter",):  # of fixed size and in one piece, so that it changes in a single write
            file.create_dataset(name, data=np.zeros(len(Counters()), dtype))
            continue
        file.create_dataset(
            name,
            shape=(0,) * len(axes),
            maxshape=(None,) * len(axes),
            chunks=tuple(chunk[axis] for axis in axes),
            dtype=dtype,
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            fletcher32=True,
            fillvalue=np.nan if "f" in dtype else None,
        )
    return file


def _encoded(sites: Sequence[Site]) -> tuple[dict[str, Numbers], list[tuple[int, str, str]]]:
    """The columns of /sites, and (site, column, text) where a column cannot hold a text as it is."""
    columns: dict[str, Numbers] = {"depth": np.array([site.depth for site in sites], dtype=np.int64)}
    texts = []
    for name in SITE_TEXTS:
        given = [str(getattr(site, name)) for site in sites]
        column = np.array([text.encode(errors="replace") for text in given], dtype=SCHEMA[f"sites/{name}"].dtype)
        held = [text.decode(errors="replace") for text in column.tolist()]
        texts += [(i, name, text) for i, text in enumerate(given) if held[i] != text]
        columns[name] = column
    return columns, texts


def _bytes(text: str) -> Numbers:
    return np.frombuffer(text.encode("ascii"), dtype=np.uint8)  # what json.dumps returns is ASCII


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _target(path: str | Path) -> Path:
    """`path` as of now, wherever the training changes to, with its links followed; it can be replaced, if it exists."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise TraceError(f"{path} cannot be written: there is no folder {target.parent}.")
    if not target.exists() or (target.is_file() and target.stat().st_size == 0):
        return target
    try:
        require_trace(path)
    except TraceError as error:
        raise TraceError(f"{error} It is not overwritten; remove it, or name another file.") from error
    if not os.access(target, os.W_OK):
        raise TraceError(f"{path} cannot be written: it is read-only.")
    return target

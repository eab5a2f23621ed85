import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from synthetic import assert_same, collected, read_or_refused, run

from gradscope.errors import TraceError
from gradscope.records import STATISTICS
from gradscope.storage import save_trace
from gradscope.trace import PER_STEP, Trace
from gradscope.trace_file import FORMAT, SCHEMA, SCHEMA_VERSION, Counters, read_trace

STEPS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound trace of 20 steps."""
    save_trace(collected(islice(run(0), STEPS)), tmp_path / "run.h5")
    return tmp_path / "run.h5"


def test_the_schema_has_not_changed_without_a_new_version() -> None:
    names = "committed document events sites/module sites/module_type sites/quantity sites/name sites/depth steps/step"
    names += " steps/loss steps/lr steps/loss_scale"
    statistics = "numel mean std rms l2_norm abs_max min max zero_fraction nonfinite_count dead_fraction"
    statistics += " saturated_fraction underflow_fraction symmetric_fraction spectral_radius spectral_norm"
    statistics += " attention_entropy max_logit sample_spread direction_spread carried_fraction"
    stats = [f"stats/{s}" for s in statistics.split()]
    times = [f"time/{s}" for s in ("step", "site", "time", *statistics.split())]
    ranks = ["units/step", "units/site", "units/count", "units/silent", "ranks/rms", "ranks/nonfinite_count"]
    assert (SCHEMA_VERSION, list(SCHEMA)) == (4, [*names.split(), *stats, *times, *ranks]), (
        "raise SCHEMA_VERSION, say what it is"
    )
    assert len(SCHEMA) == 12 + 3 + 2 * len(STATISTICS) + len(ranks)


_SINCE_4 = ("sample_spread", "direction_spread", "carried_fraction")
CAME_LATER = {
    1: ("spectral_radius", "spectral_norm", "attention_entropy", "max_logit", *_SINCE_4),
    2: ("attention_entropy", "max_logit", *_SINCE_4),
    3: _SINCE_4,
}


@pytest.mark.parametrize("schema", CAME_LATER)
def test_a_file_of_an_earlier_schema_is_read_and_lacks_what_came_later(path: Path, schema: int) -> None:
    before = read_trace(path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = np.int64(schema)
        if schema < 3:
            counters = file["committed"][:7]
            del file["committed"], file["units"], file["ranks"]
            file["committed"] = counters
        for statistic in CAME_LATER[schema]:
            del file[f"stats/{statistic}"], file[f"time/{statistic}"]
    after = read_trace(path)
    held = len(STATISTICS) - len(CAME_LATER[schema])
    for statistic in STATISTICS[:held]:
        np.testing.assert_array_equal(after.statistics[statistic], before.statistics[statistic])
    np.testing.assert_array_equal(after.times.values[:, :held], before.times.values[:, :held])
    assert all(np.isnan(after.statistics[statistic]).all() for statistic in CAME_LATER[schema])
    assert np.isnan(after.times.values[:, held:]).all()
    assert len(before.units.step)
    assert len(after.units.step) == (len(before.units.step) if schema >= 3 else 0)
    assert after.ranks is None


def test_the_file_is_what_the_schema_says(path: Path) -> None:
    with h5py.File(path) as file:
        found: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
        assert set(found) == set(SCHEMA)
        assert {name: dataset.dtype.str for name, dataset in found.items()} == {n: c.dtype for n, c in SCHEMA.items()}
        assert {dataset.compression for name, dataset in found.items() if name != "committed"} == {"gzip"}
        assert {dataset.fletcher32 for name, dataset in found.items() if name != "committed"} == {True}
        assert found["stats/rms"].chunks[0] == 16


# ---------------------------------------------------------------- no trace at all


def absent(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def text(path: Path) -> None:
    path.write_text("step,loss\n0,1.0\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "keras"  # of variable length
        file["weights"] = np.ones(3)


def foreign_attributes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["format"] = np.arange(5)
        file.attrs["schema"] = file.ref


def later_schema(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = np.int64(5)
        file.attrs["gradscope"] = np.bytes_(b"0.9")


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "absent": (absent, "does not exist."),
    "folder": (folder, "is no file but a folder; a trace is a single HDF5 file."),
    "pipe": (pipe, "is no file; a trace is a single HDF5 file."),
    "text": (text, "is no gradscope trace: it is not HDF5."),
    "empty": (empty, "is no gradscope trace: it is not HDF5."),
    "other HDF5": (other_hdf5, "is no gradscope trace: it is HDF5 of something else."),
    "foreign attributes": (foreign_attributes, "is no gradscope trace: it is HDF5 of something else."),
    "later schema": (
        later_schema,
        "was written by gradscope 0.9 (schema 5); this version reads schemas 1 to 4. Upgrade gradscope to read it.",
    ),
}


@pytest.mark.parametrize(("make", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_trace_is_named_as_the_user_wrote_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], message: str
) -> None:
    make(path)
    monkeypatch.chdir(path.parent)
    with pytest.raises(TraceError) as caught:
        read_trace("./run.h5")
    assert str(caught.value) == f"./run.h5 {message}"


def test_a_file_that_may_not_be_read_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", forbidden)
    with pytest.raises(TraceError, match=r"run\.h5 cannot be read: Permission denied\.$"):
        read_trace(path)


def test_a_name_that_no_file_can_have_is_quoted() -> None:
    with pytest.raises(TraceError, match="cannot be read: embedded null byte"):
        read_trace("run\0.h5")


# ---------------------------------------------------------------- damaged and hostile


def rewrite(path: Path, name: str, **options: object) -> None:
    """Replaces a dataset."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, **options)


def count(path: Path, **counters: int) -> None:
    with h5py.File(path, "r+") as file:
        file["committed"][:] = Counters(*file["committed"][:].tolist())._replace(**counters)


def put(path: Path, name: str, where: int, value: object) -> None:
    with h5py.File(path, "r+") as file:
        file[name][where] = value


def document(path: Path, text: bytes) -> None:
    with h5py.File(path, "r+") as file:
        file["document"].resize((len(text),))
        file["document"][:] = np.frombuffer(text, np.uint8)
    count(path, document_start=0, document_stop=len(text))


def event_line(path: Path, text: bytes) -> None:
    with h5py.File(path, "r+") as file:
        file["events"].resize((len(text),))
        file["events"][:] = np.frombuffer(text, np.uint8)
    count(path, event_bytes=len(text))


def linked(path: Path, link: object) -> None:
    """The losses are replaced by a link to the same numbers elsewhere."""
    shutil.copy(path, path.with_name("other.h5"))
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = file["steps/loss"]
        del file["steps/loss"]
        file["steps/loss"] = link


def linked_group(path: Path) -> None:
    shutil.copy(path, path.with_name("other.h5"))
    with h5py.File(path, "r+") as file:
        del file["stats"]
        file["stats"] = h5py.ExternalLink("other.h5", "/stats")


def virtual(path: Path) -> None:
    shutil.copy(path, path.with_name("other.h5"))
    layout = h5py.VirtualLayout((32,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "steps/loss", (32,))
    with h5py.File(path, "r+") as file:
        del file["steps/loss"]
        file.create_virtual_dataset("steps/loss", layout)


def external(path: Path) -> None:
    path.with_name("raw").write_bytes(bytes(8 * 32))
    rewrite(path, "steps/loss", shape=(32,), dtype="f8", external=[(str(path.with_name("raw")), 0, 8 * 32)])


def unknown_filter(path: Path) -> None:
    rewrite(path, "steps/loss", data=np.zeros(32), chunks=(16,), compression="lzf")


def flipped_bit(path: Path) -> None:
    with h5py.File(path) as file:
        where = file["stats/rms"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[where + 40] ^= 1
    path.write_bytes(data)


def truncated(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def sparse_rows(path: Path) -> None:
    """10¹² steps, none of which takes any room in the file."""
    with h5py.File(path, "r+") as file:
        for name in ("step", *PER_STEP):
            file[f"steps/{name}"].resize((10**12,))
    count(path, steps=10**12)


def sparse_table(path: Path) -> None:
    """A million steps of a million sites."""
    with h5py.File(path, "r+") as file:
        for name in ("step", *PER_STEP):
            file[f"steps/{name}"].resize((10**6,))
        for name in ("module", "module_type", "quantity", "name", "depth"):
            file[f"sites/{name}"].resize((10**6,))
    count(path, steps=10**6, sites_start=0, sites_stop=10**6)


def huge_chunk(path: Path) -> None:
    rewrite(path, "steps/loss", shape=(20,), maxshape=(None,), chunks=(2**28,), dtype="f8", compression="gzip")


def json_bomb(path: Path) -> None:
    """A hundred million empty lists: 100 kB in the file, gigabytes in memory."""
    size = 2 * 10**8
    rewrite(path, "document", shape=(size,), chunks=(10**6,), dtype="u1", compression="gzip")
    with h5py.File(path, "r+") as file:
        for start in range(0, size, 10**6):
            file["document"].id.write_direct_chunk((start,), zlib.compress(b"[]," * 333_333 + b" "))
    count(path, document_start=0, document_stop=size)


def missing(name: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]

    return remove


GOOD_EVENT = b'{"step": 1, "kind": "", "module": "", "message": ""}'
HOSTILE: dict[str, Callable[[Path], None]] = {
    "half the file": truncated(0.5),
    "nine tenths of the file": truncated(0.9),
    "the first 100 bytes": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "the signature only": lambda path: path.write_bytes(path.read_bytes()[:8]),
    "a flipped bit": flipped_bit,
    **{f"without {name}": missing(name) for name in ("committed", "stats", "stats/rms", "time/time", "sites/name")},
    "group in place of a dataset": lambda p: (missing("steps/loss")(p), h5py.File(p, "r+").create_group("steps/loss")),
    "strings in place of numbers": lambda p: rewrite(p, "steps/loss", data=np.full(32, b"1.0")),
    "float64 in place of float32": lambda p: rewrite(p, "stats/rms", data=np.zeros((32, 30))),
    "big-endian": lambda p: rewrite(p, "steps/loss", data=np.zeros(32, ">f8")),
    "object references": lambda p: rewrite(p, "steps/loss", shape=(32,), dtype=h5py.ref_dtype),
    "variable-length strings": lambda p: rewrite(p, "sites/name", shape=(64,), dtype=h5py.string_dtype()),
    "one axis too many": lambda p: rewrite(p, "steps/loss", data=np.zeros((32, 1))),
    "a scalar": lambda p: rewrite(p, "steps/loss", data=0.0),
    "without a shape": lambda p: rewrite(p, "steps/loss", data=h5py.Empty("f8")),
    "too few counters": lambda p: rewrite(p, "committed", data=np.zeros(3, "i8")),
    "zero counters": lambda p: rewrite(p, "committed", data=np.zeros(len(Counters()), "i8")),
    "a negative counter": lambda p: count(p, steps=-1),
    "more steps than data": lambda p: count(p, steps=33),
    "more times than data": lambda p: count(p, times=10**6),
    "sites that end before they begin": lambda p: count(p, sites_start=10),
    "an unknown quantity": lambda p: put(p, "sites/quantity", 0, b"vibes"),
    "a time of an unknown site": lambda p: put(p, "time/site", 0, 100),
    "a time of a negative site": lambda p: put(p, "time/site", 0, -1),
    "a time of an unknown step": lambda p: put(p, "time/step", 0, STEPS),
    "a negative time": lambda p: put(p, "time/time", 0, -1),
    "a time so late that it fills the memory": lambda p: put(p, "time/time", 0, 2**31 - 1),
    "no JSON": lambda p: document(p, b"{"),
    "no UTF-8": lambda p: document(p, b'{"meta": "\xff"}'),
    "a list for a document": lambda p: document(p, b"[]"),
    "an empty document": lambda p: document(p, b"{}"),
    "metadata that is no object": lambda p: document(p, b'{"meta": [], "events": [], "texts": []}'),
    "deep JSON": lambda p: document(p, b"[" * 10**6),
    "a text of an unknown site": lambda p: document(p, b'{"meta": {}, "events": [], "texts": [[99, "name", ""]]}'),
    "a text of an unknown column": lambda p: document(p, b'{"meta": {}, "events": [], "texts": [[0, "depth", ""]]}'),
    "a text that is a number": lambda p: document(p, b'{"meta": {}, "events": [], "texts": [[0, "name", 1]]}'),
    "a text that is no list": lambda p: document(p, b'{"meta": {}, "events": [], "texts": [7]}'),
    "an event that is no object": lambda p: event_line(p, b"7"),
    "an event without a step": lambda p: event_line(p, GOOD_EVENT.replace(b"step", b"stop")),
    "an event at no number": lambda p: event_line(p, GOOD_EVENT.replace(b"1", b'"1"')),
    "an event with a number too long": lambda p: event_line(p, GOOD_EVENT.replace(b"1", b"1" * 10**5)),
    "a soft link": lambda p: linked(p, h5py.SoftLink("/elsewhere")),
    "an external link": lambda p: linked(p, h5py.ExternalLink("other.h5", "/steps/loss")),
    "an external link for a group": linked_group,
    "a virtual dataset": virtual,
    "a dataset in another file": external,
    "another filter": unknown_filter,
    "10¹² steps in no room": sparse_rows,
    "10¹² values in no room": sparse_table,
    "a chunk of 2 GB": huge_chunk,
    "JSON that grows in memory": json_bomb,
}


@pytest.mark.parametrize("harm", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_file_gives_one_error(path: Path, harm: Callable[[Path], None]) -> None:
    harm(path)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path} is truncated or damaged: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("name", ["10¹² values in no room", "a chunk of 2 GB", "JSON that grows in memory"])
def test_a_hostile_file_cannot_fill_the_memory(path: Path, name: str) -> None:
    HOSTILE[name](path)
    script = """if True:
        import resource, sys
        from gradscope.errors import TraceError
        from gradscope.storage import read_trace
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_trace(sys.argv[1])
        except TraceError:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # kB


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 25))
def test_a_truncated_file_is_an_error_or_whole(path: Path, share: float) -> None:
    truncated(share)(path)
    found = read_or_refused(path)
    if isinstance(found, Trace):
        assert_same(found, collected(islice(run(0), STEPS)))
    else:
        assert found.startswith(f"{path} is ")


@pytest.mark.parametrize("seed", range(100))
def test_noise_in_a_file_never_raises_anything_else(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[rng.integers(8, len(data), 30)] = rng.integers(0, 256, 30)
    path.write_bytes(data.tobytes())
    found = read_or_refused(path)
    assert len(found.steps) <= 32 if isinstance(found, Trace) else found.startswith(f"{path} ")


def test_a_file_without_the_name_of_its_version_is_still_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = np.int64(0)
        del file.attrs["gradscope"]
    with pytest.raises(TraceError, match=r"\(schema 0\); this version reads schemas 1 to 4"):
        read_trace(path)
    assert FORMAT == b"gradscope trace"

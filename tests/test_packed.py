import copy
import pickle
import zlib
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import assert_same, collected, run

from gradscope.errors import TraceError
from gradscope.packed import Packed, Statistics, is_sound
from gradscope.records import STATISTICS, Quantity
from gradscope.storage import TraceWriter, read_trace, save_trace
from gradscope.trace import Trace

STEPS = 40


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_trace(collected(islice(run(0), STEPS)), tmp_path / "run.h5")
    return tmp_path / "run.h5"


def packed(trace: Trace) -> frozenset[str]:
    assert isinstance(trace.statistics, Statistics)
    return trace.statistics.packed


def test_a_statistic_is_unpacked_when_it_is_asked_for(path: Path) -> None:
    trace = read_trace(path)
    assert packed(trace) == {s.value for s in STATISTICS}
    trace.by_depth(Quantity.OUTPUT, "rms")
    assert packed(trace) == {s.value for s in STATISTICS} - {"numel", "rms"}
    assert trace.statistics["rms"] is trace.statistics["rms"]


def test_so_is_one_of_the_values_per_time(path: Path) -> None:
    trace = read_trace(path)
    assert isinstance(trace.times.statistics, Statistics)
    site = trace.sites[trace.times.site[0]]
    trace.by_time(site.module, site.quantity, "rms", name=site.name)
    assert trace.times.statistics.packed == {s.value for s in STATISTICS} - {"rms"}
    assert_same(trace, collected(islice(run(0), STEPS)))


def test_what_was_read_does_not_need_its_file_any_more(path: Path) -> None:
    trace = read_trace(path)
    path.write_bytes(b"")
    assert_same(trace, collected(islice(run(0), STEPS)))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda trace: pickle.loads(pickle.dumps(trace))])
def test_a_copy_is_packed_like_the_original_and_is_its_own(path: Path, duplicate) -> None:
    trace = read_trace(path)
    other = duplicate(trace)
    assert packed(other) == packed(trace)
    other.statistics["mean"][:] = 0
    assert_same(trace, collected(islice(run(0), STEPS)))


def test_the_tables_of_hdf5_itself_are_the_same(path: Path) -> None:
    trace = read_trace(path)
    with h5py.File(path) as file:
        for statistic in STATISTICS:
            table = file[f"stats/{statistic.value}"][:STEPS, : len(trace.sites)]
            np.testing.assert_array_equal(trace.statistics[statistic][: len(table), : table.shape[1]], table)


def test_statistics_that_were_never_observed_take_no_memory() -> None:
    nothing = Packed((10**6, 10**6), (16, 16), {}).unpacked()
    assert nothing.shape == (10**6, 10**6)
    assert np.isnan(nothing[-1, -1])


@pytest.mark.parametrize("steps", [1, 16, 17, 40])
def test_a_file_that_is_still_written_is_read_as_well(tmp_path: Path, steps: int) -> None:
    writer = TraceWriter(tmp_path / "run.h5")
    for record, sites, meta in islice(run(0), steps):
        writer.append(record, sites, meta)
    writer.flush()
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(0), steps)))
    assert packed(read_trace(tmp_path / "run.h5"))
    writer.close()


def test_chunks_that_are_stored_in_another_way_are_read_by_hdf5(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for name, options in {"rms": {"compression": "gzip"}, "mean": {"shuffle": True}}.items():
            held = file[f"stats/{name}"][:]
            del file[f"stats/{name}"]
            file.create_dataset(f"stats/{name}", data=held, chunks=(16, 32), maxshape=(None, None), **options)
        raw = np.random.default_rng(0).normal(size=file["stats/std"].chunks).astype("<f4")
        file["stats/std"].id.write_direct_chunk((0, 0), raw.tobytes(), 0b111)  # no filter was applied
        wanted = {name: file[f"stats/{name}"][:STEPS] for name in ("rms", "mean", "std", "max")}
    trace = read_trace(path)
    assert packed(trace) == {s.value for s in STATISTICS} - {"rms", "mean", "std"}
    for name, table in wanted.items():
        np.testing.assert_array_equal(trace.statistics[name], table[:, : len(trace.sites)])


# ---------------------------------------------------------------- chunks


def fletcher32(data: bytes) -> int:
    """Word by word, as HDF5's file format specification says it."""
    a = b = 0
    for high, low in zip(data[::2], data[1::2], strict=False):
        a += high << 8 | low
        b += a
    if len(data) % 2:
        a += data[-1] << 8
        b += a
    while a >> 16 or b >> 16:
        a, b = (a & 0xFFFF) + (a >> 16), (b & 0xFFFF) + (b >> 16)
    return b << 16 | a


@given(st.binary(max_size=300) | st.integers(0, 40).map(lambda n: b"\xff" * n), st.integers(0, 7))
def test_the_checksum_is_fletchers(data: bytes, bit: int) -> None:
    part = data + fletcher32(data).to_bytes(4, "little")
    assert is_sound(part)
    if data and data[-1] not in (0, 255):  # to it 0 and 65535 are the same word
        assert not is_sound(data[:-1] + bytes([data[-1] ^ 1 << bit]) + part[-4:])


def test_the_checksum_of_a_large_chunk_is_added_up_in_pieces() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * 2**19 + 5, np.uint8).tobytes()
    assert is_sound(data + fletcher32(data).to_bytes(4, "little"))


def test_every_chunk_that_hdf5_writes_is_sound_until_a_bit_is_flipped(path: Path) -> None:
    with h5py.File(path) as file:
        dataset = file["stats/rms"].id
        part = bytearray(dataset.read_direct_chunk((0, 0))[1])
    assert is_sound(bytes(part))
    for at in range(0, len(part), 7):
        part[at] ^= 4
        assert not is_sound(bytes(part))
        part[at] ^= 4


HOSTILE = {
    "no deflate stream": b"nothing",
    "too few numbers": zlib.compress(bytes(4)),
    "too many numbers": zlib.compress(bytes(10**6)),
    "half a stream": zlib.compress(np.random.default_rng(0).bytes(16 * 16 * 4))[:500],
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_does_not_unpack_to_a_chunk_is_an_error(data: bytes) -> None:
    with pytest.raises(TraceError, match="whose statistics are no numbers"):
        Packed((16, 16), (16, 16), {(0, 0): data + b"sums"}).unpacked()

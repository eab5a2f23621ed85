import struct
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
from synthetic import assert_same, collected, read_or_refused, run

from gradscope.storage import TraceWriter, read_trace
from gradscope.trace import Trace
from gradscope.unclosed import lookup3, unclosed_file


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """What a writer that was killed after 40 steps leaves."""
    writer = TraceWriter(tmp_path / "writing.h5")
    for item in islice(run(0), 40):
        writer.append(*item)
    (tmp_path / "killed.h5").write_bytes((tmp_path / "writing.h5").read_bytes())
    writer.close()
    return tmp_path / "killed.h5"


def test_the_checksum_is_the_one_that_hdf5_writes(killed: Path) -> None:
    start = killed.read_bytes()[:48]
    assert struct.pack("<I", lookup3(start[:44])) == start[44:]


def test_hdf5_does_not_open_the_file_as_it_is(killed: Path) -> None:
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(killed, "r")
    assert_same(read_trace(killed), collected(islice(run(0), 32)))


def test_a_closed_file_needs_no_help(tmp_path: Path) -> None:
    collected(islice(run(0), 3)).save(tmp_path / "run.h5")
    assert unclosed_file(tmp_path / "run.h5") is None


def test_only_the_superblock_differs_and_zeros_follow(killed: Path) -> None:
    data = killed.read_bytes()
    with unclosed_file(killed) as file:
        seen = file.read(len(data) + 10)
        assert next(i for i in range(len(data)) if seen[i] != data[i]) == 11
        assert seen[48:] == data[48:] + bytes(10)
        file.seek(40)
        assert file.read(20) == seen[40:60]


def assert_refused_or_same(killed: Path) -> None:
    found = read_or_refused(killed)
    if isinstance(found, Trace):
        assert_same(found, collected(islice(run(0), 32)))
    else:
        assert found.startswith(f"{killed} is ")


@pytest.mark.parametrize("share", np.linspace(0.01, 0.99, 30))
def test_damage_is_an_error_at_once(killed: Path, share: float) -> None:
    data = killed.read_bytes()
    killed.write_bytes(data[: int(share * len(data))])
    assert_refused_or_same(killed)


@pytest.mark.parametrize("seed", range(30))
def test_noise_is_an_error_at_once_or_harmless(killed: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(killed.read_bytes(), np.uint8).copy()
    data[rng.integers(8, len(data), 10)] = rng.integers(0, 256, 10)
    killed.write_bytes(data.tobytes())
    assert_refused_or_same(killed)

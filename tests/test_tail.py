import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import synthetic
from builders import trace_of
from synthetic import assert_same, collected, run

from gradscope import tail as module
from gradscope.errors import TraceError
from gradscope.storage import TraceWriter, read_trace
from gradscope.tail import Standing, Tail
from gradscope.trace import Trace, no_units


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def without_units(trace: Trace) -> Trace:
    return replace(trace, units=no_units())


def until(tail: Tail, wanted: Standing, *, steps: int = 0) -> None:
    last = time.monotonic() + 20
    while tail.standing is not wanted or tail.steps < steps:
        assert time.monotonic() < last, (tail.standing, tail.steps)
        tail.look()
        time.sleep(0.02)


def test_a_file_that_grows_is_read_as_the_whole_would_be(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    tail = Tail(path)
    assert not tail.look()
    assert tail.standing is Standing.ABSENT
    assert not len(tail.trace.steps)
    writer = TraceWriter(path)
    appended = []
    for count, one in enumerate(islice(run(3), 100), start=1):
        writer.append(*one)
        appended.append(one)
        if count == 37:
            writer.flush()  # in the middle of a block
        if count % 5 == 0 and tail.look():
            done = len(tail.trace.steps)
            assert_same(tail.trace, without_units(collected(appended[:done])) if done == count else tail.trace)
    writer.close()
    assert tail.look()
    assert tail.steps == 100
    assert_same(tail.trace, without_units(read_trace(path)))


def test_reading_it_in_several_parts_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    collected(islice(run(5), 90)).save(path)
    monkeypatch.setattr("gradscope.tail._AT_ONCE", 13)
    tail = Tail(path)
    tail.look()
    assert_same(tail.trace, without_units(read_trace(path)))


def test_a_look_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = module.read_piece
    monkeypatch.setattr(module, "read_piece", lambda *given: read.append(real(*given)) or read[-1])
    path = tmp_path / "run.h5"
    tail, steps = Tail(path), run(1)
    writer = TraceWriter(path)
    for _ in range(4):
        for one in islice(steps, 32):
            writer.append(*one)
        tail.look()
    writer.close()
    assert [len(piece.trace.steps) for piece in read] == [32, 32, 32, 32]


def long_run(path: Path, steps: int, *, broken: dict[int, int] = {}, **other: float) -> None:  # noqa: B006
    counts = np.zeros((steps, 3))
    for step, site in broken.items():
        counts[step, site] = 5
    trace_of(output_rms=np.arange(1, 3 * steps + 1).reshape(steps, 3), output_nonfinite_count=counts).save(path)


def test_of_a_long_run_a_part_is_kept_and_every_step_at_which_something_breaks(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    long_run(path, 1000, broken={333: 1, 501: 2, 502: 2, 503: 2})
    tail = Tail(path, most_steps=100)
    tail.look()
    trace, whole = tail.trace, read_trace(path)
    assert tail.steps == 1000
    assert len(trace.steps) <= 101
    assert tail.stride == 16
    assert set(trace.steps) == {*range(0, 1000, 16), 333, 334, 501, 504, 999}
    for stat in ("rms", "nonfinite_count", "numel"):
        np.testing.assert_array_equal(trace.statistics[stat], whole.statistics[stat][trace.steps])


def test_a_run_that_breaks_in_every_second_step_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    long_run(path, 2000, broken=dict.fromkeys(range(101, 2000, 2), 0))
    tail = Tail(path, most_steps=80)
    tail.look()
    assert len(tail.trace.steps) <= 81
    assert {101, 102, 1999} <= set(tail.trace.steps), "the first that broke, and the last"


def test_what_weighs_more_is_kept_less_long(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    trace_of(output_rms=np.ones((800, 200))).save(path)
    weight = 200 * 4 * 3  # numel, rms, nonfinite_count
    tail = Tail(path, most_bytes=200 * weight)
    tail.look()
    assert 100 <= len(tail.trace.steps) <= 201


def test_how_it_stands_with_the_writer(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "run.h5"
    tail = Tail(path, clock=clock)
    writer = TraceWriter(path)
    tail.look()
    assert tail.standing is Standing.BEGINNING
    for one in islice(run(2), 16):
        writer.append(*one)
    tail.look()
    assert tail.standing is Standing.WRITTEN
    clock.now = 5.0
    assert not tail.look(), "it only takes its time"
    assert tail.standing is Standing.WRITTEN
    writer.close()
    clock.now = 10.0
    assert tail.look()
    assert tail.standing is Standing.ENDED


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    path = tmp_path / "run.h5"
    words = [sys.executable, synthetic.__file__, str(path), "1", ""]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment) as child:
        yield path, child
        child.kill()


def test_a_writer_that_was_killed_is_told_from_one_that_has_ended(training) -> None:
    path, child = training
    tail = Tail(path)
    until(tail, Standing.WRITTEN, steps=32)
    child.send_signal(signal.SIGKILL)
    child.wait()
    until(tail, Standing.KILLED)
    writer = TraceWriter(path)
    assert not tail.look(), "the older trace lies there until the new run's first step"
    for one in islice(run(9), 16):
        writer.append(*one)
    assert tail.look()
    assert (tail.runs, tail.standing, tail.steps) == (2, Standing.WRITTEN, 16)
    assert len(tail.trace.steps) == 16
    writer.close()
    until(tail, Standing.ENDED)


def test_a_file_that_does_not_count_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    long_run(path, 20)
    tail = Tail(path, ignore=path.stat().st_ino)
    tail.look()
    assert (tail.standing, tail.runs) == (Standing.ABSENT, 0)
    writer = TraceWriter(path)
    for one in islice(run(9), 16):
        writer.append(*one)
    tail.look()
    assert (tail.steps, tail.runs) == (16, 1)
    writer.close()


def test_what_is_no_trace_is_refused_and_damage_after_some_looks(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no trace")
    with pytest.raises(TraceError, match=r"notes.txt is no gradscope trace: it is not HDF5"):
        Tail(other).look()
    with pytest.raises(TraceError, match="is no file but a folder"):
        Tail(tmp_path).look()
    path = tmp_path / "run.h5"
    long_run(path, 200)
    path.write_bytes(path.read_bytes()[:9000])
    tail = Tail(path)
    for _ in range(10):
        assert not tail.steps, "it may be written at this moment"
        tail.look()
    with pytest.raises(TraceError, match=r"run.h5 is truncated or damaged"):
        tail.look()

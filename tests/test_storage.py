import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import synthetic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from synthetic import assert_same, collected, run

from gradscope.errors import TraceError
from gradscope.records import STATISTICS, Event, Quantity, Site
from gradscope.storage import TraceWriter, read_trace, save_trace
from gradscope.trace import PER_STEP, TimeTable, Trace, TraceBuilder
from gradscope.trace_file import BLOCK

# ---------------------------------------------------------------- whole traces

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
# any text at all: long, with zeros, with halves of surrogate pairs
texts = st.text(st.characters(exclude_categories=()), max_size=20) | st.builds(str.__mul__, st.text(), st.just(40))
float32s = st.floats(width=32, allow_nan=True, allow_subnormal=True)
events = st.builds(Event, step=st.integers(-1, 2**40), kind=texts, module=texts, message=texts)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    sites = draw(
        st.lists(
            st.builds(
                Site,
                module=texts,
                module_type=texts,
                quantity=st.sampled_from(Quantity),
                name=texts,
                depth=st.integers(-1, 10),
            ),
            max_size=20,
        )
    )
    steps = draw(st.integers(0, 2 * BLOCK + 1))
    rows = draw(st.integers(0, 5)) if steps and sites else 0

    def array(dtype: str, shape: int | tuple[int, ...], elements: st.SearchStrategy[float]) -> np.ndarray:
        return draw(npst.arrays(dtype, shape, elements=elements))

    return Trace(
        meta=draw(st.dictionaries(st.text(max_size=5), json_values, max_size=3)),
        sites=tuple(sites),
        steps=array("i8", steps, st.integers(0, 2**40)),
        per_step={name: array("f8", steps, st.floats()) for name in PER_STEP},
        statistics={s.value: array("f4", (steps, len(sites)), float32s) for s in STATISTICS},
        times=TimeTable(
            step=array("i4", rows, st.integers(0, max(0, steps - 1))),
            site=array("i4", rows, st.integers(0, max(0, len(sites) - 1))),
            time=array("i4", rows, st.integers(0, 1000)),
            statistics={s.value: array("f4", rows, float32s) for s in STATISTICS},
        ),
        events=tuple(draw(st.lists(events, max_size=3))),
    )


@given(traces())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_saved_is_read_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, trace: Trace) -> None:
    path = tmp_path_factory.mktemp("trace") / "run.h5"
    save_trace(trace, path)
    assert_same(read_trace(path), trace)


def test_saving_replaces_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    save_trace(collected(islice(run(0), 40)), path)
    collected(islice(run(1), 3)).save(str(path))
    assert_same(read_trace(path), collected(islice(run(1), 3)))
    assert os.listdir(tmp_path) == ["run.h5"]


def test_a_save_that_fails_leaves_the_old_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    save_trace(collected(islice(run(0), 3)), path)

    def disk_full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.File, "flush", disk_full)
    with pytest.raises(TraceError, match=r"run\.h5 cannot be written: .*No space left on device"):
        save_trace(collected(islice(run(1), 3)), path)
    assert_same(read_trace(path), collected(islice(run(0), 3)))
    assert os.listdir(tmp_path) == ["run.h5"]


# ---------------------------------------------------------------- a run


@pytest.mark.parametrize("steps", [0, 1, 15, 16, 17, 32, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_on_disk_is_the_run_in_memory(tmp_path: Path, steps: int, seed: int) -> None:
    appended = list(islice(run(seed), steps))
    late = (Event(step=9, kind="not-observed", module="fc", message="never ran"),)
    writer = TraceWriter(tmp_path / "run.h5")
    for item in appended:
        writer.append(*item)
    _, sites, meta = appended[-1] if appended else (None, (), {})
    finished = writer.finish(sites, meta, late)
    writer.close()
    assert_same(finished, collected(appended, late))
    assert_same(read_trace(tmp_path / "run.h5"), collected(appended, late))


@given(seed=st.integers(0, 1000), finishes=st.lists(st.integers(1, 60), max_size=8, unique=True))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_finishing_in_mid_run_shows_all_and_disturbs_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, finishes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "run.h5"
    writer = TraceWriter(path)
    appended = []
    for count, item in enumerate(islice(run(seed), 60), start=1):
        appended.append(item)
        writer.append(*item)
        if count in finishes:
            late = (Event(step=count, kind="so far"),)
            assert_same(writer.finish(*item[1:], late), collected(appended, late))
            assert_same(read_trace(path), collected(appended, late))
    writer.finish(*item[1:])
    writer.close()
    assert_same(read_trace(path), collected(appended))


def test_sites_that_no_step_has_yet_are_in_the_trace(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "run.h5")
    (item,) = islice(run(0), 1)
    writer.append(*item)
    more = (*item[1], *(Site(module=f"m{i}", module_type="", quantity=Quantity.OUTPUT) for i in range(50)))
    trace = writer.finish(more, {"model": "Net"})
    assert trace.sites == more
    assert trace.statistics["rms"].shape == (1, len(more))
    assert np.isnan(trace.statistics["rms"][:, len(item[1]) :]).all()
    writer.close()


def test_finishing_after_the_end_reads_the_file(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "run.h5")
    appended = list(islice(run(0), 20))
    for item in appended:
        writer.append(*item)
    writer.finish(*appended[-1][1:], (Event(step=1, kind="early"),))
    writer.close()
    writer.close()
    late = (Event(step=2, kind="late"),)
    assert_same(writer.finish(*appended[-1][1:], late), collected(appended, late))


def test_finishing_after_the_file_was_replaced_says_so(tmp_path: Path) -> None:
    first, second = (islice(run(seed), 3) for seed in (0, 1))
    writer = TraceWriter(tmp_path / "run.h5")
    for item in first:
        writer.append(*item)
    writer.close()
    save_trace(collected(second), tmp_path / "run.h5")
    with pytest.raises(TraceError, match=r"run\.h5 was replaced"):
        writer.finish((), {})


def test_appending_to_a_closed_writer_is_an_error(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "run.h5")
    writer.close()
    with pytest.raises(TraceError, match=r"run\.h5 is closed"):
        writer.append(*next(run(0)))


def test_a_writer_that_nobody_closed_has_written_all(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "run.h5")
    for item in islice(run(0), 20):
        writer.append(*item)
    del writer, item
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(0), 20)))


def test_another_process_reads_while_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    script = """if True:
        import sys
        from gradscope.storage import read_trace
        for line in sys.stdin:
            print(len(read_trace(sys.argv[1]).steps), flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        writer = TraceWriter(path)
        seen = []
        for count, item in enumerate(islice(run(0), 50)):
            if count % 10 == 0:
                reader.stdin.write("\n")
                reader.stdin.flush()
                if count % 20 == 0:  # else it reads while the next steps are appended
                    seen += [int(reader.stdout.readline()) for _ in range(count // 10 + 1 - len(seen))]
            writer.append(*item)
        reader.stdin.close()
        seen += [int(line) for line in reader.stdout]
    writer.close()
    assert reader.returncode == 0
    assert [seen[0], seen[2], seen[4]] == [0, 16, 32]
    assert seen == sorted(seen)


# ---------------------------------------------------------------- the path


def test_an_older_trace_stays_until_a_step_was_recorded(tmp_path: Path) -> None:
    older = collected(islice(run(0), 3))
    save_trace(older, tmp_path / "run.h5")
    writer = TraceWriter(tmp_path / "run.h5")
    assert_same(writer.finish((), {}), TraceBuilder().finish((), {}))
    assert_same(read_trace(tmp_path / "run.h5"), older)
    writer.append(*next(run(1)))
    assert len(read_trace(tmp_path / "run.h5").steps) == 0
    writer.close()
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(1), 1)))


def test_a_run_without_steps_is_an_empty_trace_with_its_events(tmp_path: Path) -> None:
    (tmp_path / "run.h5").touch()  # as a temporary file would be
    writer = TraceWriter(tmp_path / "run.h5")
    assert len(read_trace(tmp_path / "run.h5").steps) == 0
    writer.finish((), {"model": "Net"}, [Event(step=0, kind="probe-failed")])
    writer.close()
    trace = read_trace(tmp_path / "run.h5")
    assert (trace.meta, trace.events) == ({"model": "Net"}, (Event(step=0, kind="probe-failed"),))


def not_a_trace(path: Path) -> None:
    path.write_text("import torch")


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.ones(3)


def untouched(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced, and not when it is read."""
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


@pytest.mark.parametrize("make", [not_a_trace, other_hdf5, Path.mkdir])
@pytest.mark.parametrize("write", [TraceWriter, lambda path: save_trace(collected(islice(run(0), 1)), path)])
def test_what_is_no_trace_is_not_overwritten(tmp_path: Path, make: object, write: object) -> None:
    make(tmp_path / "precious")
    before = untouched(tmp_path / "precious")
    with pytest.raises(TraceError, match=r"precious is no .*; remove it, or name another file"):
        write(tmp_path / "precious")
    assert untouched(tmp_path / "precious") == before


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"run\.h5 cannot be written: there is no folder .*missing"):
        TraceWriter(tmp_path / "missing" / "run.h5")


def test_a_folder_that_cannot_be_written_to_is_an_error_at_once() -> None:
    with pytest.raises(TraceError, match=r"^/proc/run\.h5 cannot be written: "):
        TraceWriter("/proc/run.h5")


def test_two_writers_for_one_file_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(tmp_path / "run.h5")
    first = TraceWriter(tmp_path / "run.h5")
    with pytest.raises(TraceError, match=r"link\.h5 is being written by another scope"):
        TraceWriter(tmp_path / "link.h5")
    first.close()
    TraceWriter(tmp_path / "link.h5").close()
    assert (tmp_path / "link.h5").is_symlink()


def test_a_training_that_changes_its_folder_writes_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = TraceWriter("run.h5")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.append(*next(run(0)))
    writer.close()
    assert os.listdir() == []
    assert len(read_trace(tmp_path / "run.h5").steps) == 1


# ---------------------------------------------------------------- the end of the process


@contextmanager
def training(path: Path, seed: int, end: str = "never") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, synthetic.__file__, str(path), str(seed), end]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        yield child


def stopped_by(number: int, path: Path, seed: int, after: int) -> int:
    """Sends the signal when `after` steps were appended; returns how many it were in the end."""
    with training(path, seed) as child:
        assert child.stdout is not None
        for _ in range(after):
            child.stdout.readline()
        child.send_signal(number)
        rest = child.stdout.read().splitlines()
        child.wait()
        assert child.returncode == -number
    return int(rest[-1]) if rest else after


def test_a_killed_run_can_be_read_and_has_lost_at_most_16_steps(tmp_path: Path) -> None:
    def kill(seed: int) -> None:
        path = tmp_path / f"{seed}.h5"
        count = stopped_by(signal.SIGKILL, path, seed, after=1 + 5 * seed)
        trace = read_trace(path)
        assert count - BLOCK <= len(trace.steps) <= count + 1  # a step may be on disk before its number is printed
        if len(trace.steps):
            assert_same(trace, collected(islice(run(seed), len(trace.steps))))

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(kill, range(25)))) == 25


def test_slow_steps_do_not_wait_for_their_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gradscope.storage.time.monotonic", lambda: now[0])
    writer, on_disk = TraceWriter(tmp_path / "run.h5"), []
    for count, appended in enumerate(islice(run(1), 40), start=1):
        now[0] += 60.0 if count <= 24 else 0.01
        writer.append(*appended)
        on_disk.append(len(read_trace(tmp_path / "run.h5").steps))
    writer.close()
    known = [1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 16]
    assert on_disk == [*known, *(16 + n for n in known[:8]), *[24] * 7, 32, *[32] * 8]
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(1), 40)))


def test_a_terminated_run_has_lost_nothing(tmp_path: Path) -> None:
    for seed in range(3):
        path = tmp_path / f"{seed}.h5"
        count = stopped_by(signal.SIGTERM, path, seed, after=7 + 10 * seed)
        steps = len(read_trace(path).steps)
        assert count <= steps <= count + 1
        assert_same(read_trace(path), collected(islice(run(seed), steps)))


@pytest.mark.parametrize(("end", "code"), [("raise", 1), ("exit", 3), ("return", 0)])
def test_a_run_that_ends_without_closing_has_lost_nothing(tmp_path: Path, end: str, code: int) -> None:
    with training(tmp_path / "run.h5", 0, end) as child:
        child.communicate()
    assert child.returncode == code
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(0), 20)))


def test_a_full_disk_ends_the_recording_with_one_error_and_keeps_what_was_written(tmp_path: Path) -> None:
    script = """if True:
        import resource, sys
        from itertools import islice
        from gradscope.errors import TraceError
        from gradscope.storage import TraceWriter
        from synthetic import run
        writer = TraceWriter(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        errors = []
        for item in islice(run(0), 1000):
            try:
                writer.append(*item)
            except TraceError as error:
                errors.append(str(error))
        print(errors[0])
        print(set(errors[1:]))
        print(len(writer.finish(*item[1:]).steps))
    """
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "run.h5"],
        env={**os.environ, "PYTHONPATH": str(Path(synthetic.__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, others, steps = done.stdout.splitlines()
    assert "run.h5 cannot be written: " in first
    assert "File too large" in first
    assert "is closed" in others
    assert not done.stderr
    assert int(steps) % BLOCK == 0
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(0), int(steps))))


def test_a_forked_child_leaves_the_file_to_its_parent(tmp_path: Path) -> None:
    script = """if True:
        import os, signal, sys
        from itertools import islice
        from gradscope.storage import TraceWriter
        from synthetic import run
        writer = TraceWriter(sys.argv[1])
        for count, item in enumerate(islice(run(0), 60)):
            before = open(sys.argv[1], "rb").read()
            if count == 20 and not os.fork():
                sys.exit()  # here HDF5 would mark the file as closed
            if count == 30 and not os.fork():
                os.kill(os.getpid(), signal.SIGTERM)
            if count in (20, 30):
                print(os.waitstatus_to_exitcode(os.wait()[1]), open(sys.argv[1], "rb").read() == before)
            writer.append(*item)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "run.h5"],
        env={**os.environ, "PYTHONPATH": str(Path(synthetic.__file__).parent), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["0", "True", str(-signal.SIGTERM), "True"]
    assert_same(read_trace(tmp_path / "run.h5"), collected(islice(run(0), 48)))


def test_two_processes_do_not_write_to_one_file(tmp_path):
    """The second is told at once; when the first has ended, however, the path is free."""
    path = tmp_path / "run.h5"
    code = (
        "import sys; from gradscope.storage import TraceWriter; import synthetic; from itertools import islice\n"
        "writer = TraceWriter(sys.argv[1])\n"
        "for appended in islice(synthetic.run(0), 20): writer.append(*appended)\n"
        "print('writing', flush=True); sys.stdin.read()"
    )
    folder = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": folder}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "writing\n"
        with pytest.raises(TraceError, match="is being written by another process"):
            TraceWriter(path)
        assert len(read_trace(path).steps) == 16
        first.kill()
    TraceWriter(path).close()

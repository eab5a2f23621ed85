"""Weights & Biases offline: what stands in the file that a run leaves."""

import json
import struct
import time as clock
import warnings
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import UsageError

with warnings.catch_warnings():  # what it says of other packages while it is imported
    warnings.simplefilter("ignore")
    import wandb as real
    from wandb.proto import wandb_internal_pb2

    from gradscope.integrations import wandb

BLOCK = 32768


@pytest.fixture
def run(tmp_path: Path):
    settings = real.Settings(silent=True, disable_git=True, x_disable_stats=True, console="off")
    run = real.init(mode="offline", dir=tmp_path, project="tests", settings=settings)
    yield run
    run.finish()


def parts(data: bytes) -> list[bytes]:
    """The file is a log as LevelDB writes it: blocks, in them parts with checksum, length and kind."""
    at, found, part = 7, [], b""
    while at + 7 <= len(data):
        room = BLOCK - at % BLOCK
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            found.append(part)
            part = b""
    return found


def history(run) -> list[dict[str, object]]:
    """The rows of a run that has ended; its file is complete a little later."""
    kinds: list[str] = []
    deadline = clock.monotonic() + 60
    while "exit" not in kinds and clock.monotonic() < deadline:
        clock.sleep(0.05)
        rows, kinds = [], []
        for part in parts(Path(run.settings.sync_file).read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            kinds.append(record.WhichOneof("record_type"))
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    assert "exit" in kinds
    return rows


def table(run, name: str) -> list[list[object]]:
    """The last table that was logged under a name."""
    found = (Path(run.dir) / "media" / "table" / "gradscope").glob(f"{name}_*.json")
    return json.loads(max(found, key=lambda path: path.stat().st_mtime_ns).read_text())["data"]


@pytest.mark.slow
def test_a_finished_trace_is_in_the_file_of_the_run(run, train) -> None:
    trace = train().trace
    diagnosis = wandb.log(trace)
    assert run.summary["gradscope/errors"] == sum(f.severity.value == "error" for f in diagnosis) > 0
    run.finish()
    assert [row[1] for row in table(run, "findings")] == [f.code for f in diagnosis]
    assert ["largest dead_fraction", "2:output", 1.0] in table(run, "extremes")
    rows = [row for row in history(run) if "gradscope/gradient_norm_raw" in row]
    assert [row["gradscope/step"] for row in rows] == list(range(20))
    np.testing.assert_allclose([row["gradscope/loss"] for row in rows], trace.per_step["loss"])


@pytest.mark.slow
def test_what_is_followed_goes_into_the_rows_of_the_training(run, train, caplog: pytest.LogCaptureFixture) -> None:
    def after(step: int, loss: float) -> None:
        if step < 20:
            run.log({"loss": loss}, step=2 * step)
        if step == 20:  # a run that ends too early does not end the training
            run.finish()

    scope = train(lambda scope: wandb.follow(scope, run), steps=25, after=after)
    assert len(scope.trace.steps) == 25
    assert caplog.text.count("is told no more") == 1
    assert "GS301" in [row[1] for row in table(run, "findings")], "from the 16th record"
    rows = [row for row in history(run) if "loss" in row]
    assert [row["_step"] for row in rows] == list(range(0, 40, 2)), "none of the training's rows is lost"
    norms = {row["gradscope/step"]: row["gradscope/gradient_norm_raw"] for row in rows if "gradscope/step" in row}
    expected = scope.trace.series("", "total_norm", "l2_norm", name="raw")
    np.testing.assert_allclose([norms[step] for step in range(19)], expected[:19], rtol=1e-5)


def test_without_a_run_the_way_out_is_said(train) -> None:
    with pytest.raises(UsageError, match=r"call `wandb.init\(\)` first"):
        wandb.log(train(steps=1))

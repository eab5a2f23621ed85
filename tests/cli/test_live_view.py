"""Without a training; with one in tests/e2e/test_watched_training.py."""

import time

import numpy as np
import pytest
from builders import trace_of
from script_runs import ENVIRONMENT

from gradscope.cli.live_view import LiveView, TemporaryTrace


@pytest.fixture(autouse=True)
def _this_checkout(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])


def test_a_view_of_nothing_is_ended(tmp_path, capfd):
    start = time.monotonic()
    LiveView(tmp_path / "run.h5").close(is_written=False)
    assert time.monotonic() - start < 15
    assert "has ended" not in capfd.readouterr().err


def test_an_older_trace_does_not_count(tmp_path, capfd):
    path = tmp_path / "run.h5"
    trace_of(output_rms=np.ones(2), meta={"model": "Older"}).save(path)
    view = LiveView(path)
    trace_of(output_rms=np.ones(2), meta={"model": "Newer"}).save(path)
    view.close(is_written=True)
    said = capfd.readouterr().err
    assert "Newer" in said
    assert "Older" not in said
    assert "the recording has ended" in said


def test_a_temporary_trace_leaves_nothing():
    temporary = TemporaryTrace()
    temporary.path.write_bytes(b"x")
    temporary.path.with_name("run.second.h5").write_bytes(b"x")
    temporary.remove()
    assert not temporary.path.parent.exists()

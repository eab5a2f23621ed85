"""The watcher; what is read of a file is in test_tail.py."""

import threading
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from builders import trace_of
from synthetic import run

from gradscope import live
from gradscope.errors import TraceError
from gradscope.live import Watcher
from gradscope.moment import Moment
from gradscope.rules.engine import diagnose
from gradscope.storage import TraceWriter
from gradscope.tail import Standing


def settled(watcher: Watcher) -> Moment:
    last = time.monotonic() + 20
    while not (moment := watcher.look()).is_settled:
        assert time.monotonic() < last, moment
        time.sleep(0.01)
    return moment


def test_what_has_ended_is_judged_as_a_report_would(tmp_path: Path) -> None:
    trace = trace_of(output_rms=np.ones(3), output_nonfinite_count=[0.0, 4.0, 4.0])
    trace.save(tmp_path / "run.h5")
    with Watcher(tmp_path / "run.h5") as watcher:
        moment = settled(watcher)
    assert moment.diagnosis is not None
    assert moment.diagnosis.to_dict() == diagnose(trace).to_dict()
    assert "GS401" in moment.diagnosis.codes
    assert (moment.recorded, moment.judged, moment.standing) == (10, 10, Standing.ENDED)


def test_looking_does_not_wait_for_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, judged = threading.Event(), []

    def slowly(trace):
        judged.append(len(trace.steps))
        go.wait(20)
        return diagnose(trace, ())

    monkeypatch.setattr(live, "diagnose", slowly)
    writer, steps = TraceWriter(tmp_path / "run.h5"), run(1)
    with Watcher(tmp_path / "run.h5") as watcher:
        for count in range(16, 80, 16):
            for one in islice(steps, 16):
                writer.append(*one)
            moment = watcher.look()
            assert (moment.recorded, moment.diagnosis) == (count, None)
        writer.close()
        go.set()
        assert settled(watcher).judged == 64
    assert judged == [16, 64], "one at a time, and what came between is left out"


def test_the_rules_rest_four_times_as_long_as_they_have_worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, judged = [0.0], []

    def ten_seconds(trace):
        judged.append(now[0])
        now[0] += 10.0
        return diagnose(trace, ())

    monkeypatch.setattr(live, "diagnose", ten_seconds)
    writer, steps = TraceWriter(tmp_path / "run.h5"), run(1)
    with Watcher(tmp_path / "run.h5", clock=lambda: now[0]) as watcher:
        for _ in range(8):
            for one in islice(steps, 16):
                writer.append(*one)
            watcher.look()
            for thread in threading.enumerate():
                if "_judge" in thread.name:
                    thread.join()
            now[0] += 20.0
    writer.close()
    assert all(later - earlier >= 50.0 for earlier, later in pairwise(judged))
    assert len(judged) >= 2


def test_steps_a_second_are_those_of_the_optimizer(tmp_path: Path) -> None:
    now = [0.0]
    writer, steps = TraceWriter(tmp_path / "run.h5"), run(1)  # every third step is recorded
    with Watcher(tmp_path / "run.h5", clock=lambda: now[0]) as watcher:
        rates = []
        for _ in range(3):
            for one in islice(steps, 16):
                writer.append(*one)
            rates.append(watcher.look().rate)
            now[0] += 2.0
    writer.close()
    assert np.isnan(rates[0])
    assert rates[1:] == [24.0, 24.0]


def test_a_new_run_begins_without_findings(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    trace_of(output_grad_rms=0.1 ** np.arange(8)[::-1]).save(path)
    with Watcher(path) as watcher:
        assert settled(watcher).run == 1
        trace_of(output_grad_rms=np.ones(8), steps=12).save(path)
        moment = watcher.look()
        assert (moment.run, moment.diagnosis, moment.recorded) == (2, None, 12)
        assert settled(watcher).diagnosis is not None


def test_rules_that_are_none_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trace):
        raise TraceError("no rules here")

    monkeypatch.setattr(live, "diagnose", broken)
    trace_of(output_rms=[1.0]).save(tmp_path / "run.h5")
    with Watcher(tmp_path / "run.h5") as watcher, pytest.raises(TraceError, match="no rules here"):
        settled(watcher)

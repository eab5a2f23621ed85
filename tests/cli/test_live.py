"""What the command says by itself; trainings that it watches are in tests/e2e/test_watched_training.py."""

import numpy as np
import pytest
from builders import trace_of

MISUSED = {
    "a port without the page": (["--port", "5006"], "`--port 5006` is for the page; add `--web`."),
    "open without the page": (["--open"], "`--open` is for the page; add `--web`."),
    "no such port": (["--web", "--port", "70000"], "Invalid value for '--port'"),
}


@pytest.mark.parametrize(("words", "said"), MISUSED.values(), ids=MISUSED)
def test_misuse_is_one_line(cli, tmp_path, words, said):
    outcome = cli("live", tmp_path / "run.h5", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_what_is_no_trace_is_said(cli, tmp_path):
    path = tmp_path / "notes.h5"
    path.write_text("nothing of the kind")
    outcome = cli("live", path)
    assert (outcome.code, outcome.out) == (2, "")
    assert "notes.h5 is no gradscope trace: it is not HDF5." in outcome.err


def test_a_recording_that_has_ended_is_told_and_left(cli, tmp_path):
    path = tmp_path / "run.h5"
    trace_of(output_rms=np.ones(3), output_nonfinite_count=[0.0, 4.0, 4.0], meta={"model": "Net"}).save(path)
    outcome = cli("live", path)
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == f"Net, 3 sites in {path}"
    assert outcome.out.splitlines()[1] == "the recording has ended"
    assert "error GS401 non-finite" in outcome.out.splitlines()[2]

import numpy as np
import pytest
from builders import rank_trace, trace_of

from gradscope.storage import read_trace


@pytest.fixture
def ranks(tmp_path):
    paths = [tmp_path / f"run.rank{rank}.h5" for rank in range(2)]
    for rank, path in enumerate(paths):
        rank_trace(rank, output_rms=[1.0 + rank, 2.0], steps=10 - rank).save(path)
    return paths


def test_the_files_of_all_ranks_become_one(cli, ranks, tmp_path):
    outcome = cli("merge", *ranks, "-o", tmp_path / "run.h5")
    assert (outcome.code, outcome.out) == (0, "")
    left_out, wrote = outcome.err.splitlines()
    assert left_out == "gradscope: step 9: step 9 is left out: rank 1 did not record all of them"
    assert wrote == f"gradscope: wrote {tmp_path / 'run.h5'}: 2 ranks, 9 steps"
    merged = read_trace(tmp_path / "run.h5")
    np.testing.assert_allclose(merged.series("0", "output", "rms"), np.sqrt(2.5), rtol=1e-6)
    assert cli("report", tmp_path / "run.h5").code == 0


def refused(outcome, sentence):
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err == f"gradscope: {sentence}\n"


def test_what_cannot_be_merged_is_one_sentence_and_nothing_is_written(cli, ranks, tmp_path):
    out, whole, text = tmp_path / "run.h5", tmp_path / "whole.h5", tmp_path / "text.h5"
    trace_of(output_rms=[1.0]).save(whole)
    text.write_text("no trace")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    missing = "the file of rank 1 of 2 is missing; a merge needs all, as `run.rank*.h5` names them."
    refused(cli("merge", ranks[0], "-o", out), missing)
    refused(cli("merge", ranks[0], ranks[0], "-o", out), f"{ranks[0]} is given twice; give each rank's file once.")
    refused(cli("merge", *ranks, "-o", ranks[1]), f"`-o {ranks[1]}` is one of the files to merge; name another file.")
    refused(cli("merge", ranks[0], whole, "-o", out), f"{whole} is no file of a rank, such as run.rank0.h5.")
    refused(cli("merge", ranks[0], text, "-o", out), f"{text} is no gradscope trace: it is not HDF5.")
    refused(cli("merge", ranks[0], "gone.h5", "-o", out), "gone.h5 does not exist.")
    exists = f"`-o {whole}` exists already; name another file, or replace it with `--force`."
    refused(cli("merge", *ranks, "-o", whole), exists)
    assert cli("merge", *ranks, "-o", text, "--force").code == 2
    assert cli("merge", *ranks).code == 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_trace_is_replaced_by_force(cli, ranks, tmp_path):
    trace_of(output_rms=[1.0]).save(tmp_path / "run.h5")
    assert cli("merge", *ranks, "-o", tmp_path / "run.h5", "--force").code == 0
    assert read_trace(tmp_path / "run.h5").ranks is not None

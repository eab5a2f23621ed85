"""`gradscope diff`."""

import json

import numpy as np
import pytest
from builders import trace_of
from examples import network

from gradscope.cli.diff import SUFFIXES


@pytest.fixture
def runs(tmp_path):
    """A healthy network and one whose gradient vanishes."""
    healthy, sick = tmp_path / "healthy.h5", tmp_path / "sick.h5"
    layers = {"weight_rms": np.full(15, 0.3), "weight_l2_norm": np.ones(15)}
    for path, gain in ((healthy, 1.0), (sick, 0.2)):
        depth = np.arange(15)
        trace_of(
            modules=[f"layers.{i}" for i in depth],
            output_grad_rms=1e-2 * gain ** depth[::-1] * np.ones((10, 1)),
            output_grad_l2_norm=1e-1 * gain ** depth[::-1] * np.ones((10, 1)),
            output_rms=np.full((10, 15), 0.5),
            loss=np.full(10, 2.3),
            meta={"model": "MLP", "every": 1},
            **layers,
        ).save(path)
    return healthy, sick


def test_what_appeared_is_shown_and_exit_is_0(cli, runs):
    outcome = cli("diff", *runs)
    assert outcome.code == 0
    assert outcome.err == ""
    assert "appeared in B" in outcome.out
    assert "GS101 vanishing-gradient" in outcome.out


def test_the_other_way_round_it_vanished(cli, runs):
    outcome = cli("diff", *reversed(runs), "--fail-on-new", "info")
    assert outcome.code == 0
    assert "vanished from A" in outcome.out


def test_a_run_and_itself(cli, runs):
    outcome = cli("diff", runs[0], runs[0], "--fail-on-new")
    assert outcome.code == 0
    assert "no difference" in outcome.out


@pytest.mark.parametrize("option", [["--fail-on-new"], ["--fail-on-new", "error"], ["--fail-on-new=info"]])
def test_a_new_finding_is_exit_1_wherever_the_option_stands(cli, runs, option):
    assert cli("diff", *option, *runs).code == 1
    assert cli("diff", *runs, *option).code == 1
    assert cli("diff", runs[0], *option, runs[1], "--format", "json").code == 1
    assert cli("diff", *option, *reversed(runs)).code == 0


def test_json_is_json_and_html_a_page(cli, runs):
    document = json.loads(cli("diff", *runs, "--format", "json").out)
    assert document["schema"] == "gradscope/diff/1"
    assert document["a"]["name"] == str(runs[0])
    assert "GS101" in [finding["code"] for finding in document["appeared"]]
    assert cli("diff", *runs, "--format", "html").out.startswith("<!doctype html>")


@pytest.mark.parametrize(("suffix", "start"), [(".json", "{"), (".html", "<!doctype"), (".txt", "━━ diff"), ("", "━━")])
def test_a_file_tells_its_format_by_its_suffix(cli, runs, tmp_path, suffix, start):
    path = tmp_path / f"out{suffix}"
    outcome = cli("diff", *runs, "-o", path, "--fail-on-new")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", f"gradscope: wrote {path}\n")
    assert path.read_text(encoding="utf-8").startswith(start)


def test_a_format_goes_before_the_suffix(cli, runs, tmp_path):
    path = tmp_path / "out.txt"
    assert cli("diff", *runs, "--format", "json", "-o", path).code == 0
    assert json.loads(path.read_text(encoding="utf-8"))["empty"] is False


def refused(outcome, *said):
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("gradscope: ")
    assert outcome.err.count("\n") == 1
    for words in said:
        assert words in outcome.err


def test_what_cannot_work_is_one_sentence(cli, runs, tmp_path):
    text, empty = tmp_path / "text.h5", tmp_path / "empty.h5"
    text.write_text("no trace")
    trace_of(steps=0, output_rms=np.ones((0, 2))).save(empty)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused(cli("diff", *runs, "--format", "jsn"), "`--format jsn` shows no difference; did you mean 'json'?")
    refused(cli("diff", runs[0], tmp_path / "gone.h5"), "gone.h5 does not exist")
    refused(cli("diff", runs[0], text), "is no gradscope trace")
    refused(cli("diff", runs[0], empty), "holds no recorded step")
    refused(cli("diff", *runs, "-o", runs[1]), f"`-o {runs[1]}` is a file that is judged or read")
    refused(cli("diff", *runs, "-o", tmp_path), "is a folder; name a file in it")
    refused(cli("diff", *runs, "--fail-on-new=eror"), "eror")
    refused(cli("diff", *runs, "--fail-on-new", "eror"), "eror")
    refused(cli("diff", runs[0]), "Missing argument 'B'")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_steps_and_another_every_are_compared_where_both_were(cli, tmp_path):
    short, long = tmp_path / "short.h5", tmp_path / "long.h5"
    network(1.0, steps=30).save(short)
    trace_of(
        modules=[f"layers.{i}" for i in range(15)], output_grad_rms=np.full((40, 15), 1e-2), every=5,
        output_rms=np.full((40, 15), 0.5), meta={"model": "MLP", "every": 5},
    ).save(long)  # fmt: skip
    outcome = cli("diff", short, long)
    assert outcome.code == 0
    assert "over steps 0 to 29, which both runs have" in outcome.out
    assert "every 5th recorded" in " ".join(outcome.out.split())


def test_every_format_has_a_suffix_of_its_own():
    assert len(set(SUFFIXES.values())) == len(SUFFIXES)

"""`gradscope check` on traces: exit codes, the life of a baseline, outputs. Training is in e2e/test_gate.py."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import trace_of

from gradscope.baseline import Baseline, read_baseline, write_baseline
from gradscope.cli.check import importable
from gradscope.trace import TraceBuilder
from gradscope.verdict import Identity

LAYERS = ["fc1", "act1", "fc2", "act2"]
TYPES = ["Linear", "ReLU", "Linear", "ReLU"]


def recorded(*dead: str, gain: float = 1.0):
    """A small ReLU network in which the activations `dead` are silent."""
    shares = [np.nan if kind == "Linear" else float(name in dead) for name, kind in zip(LAYERS, TYPES, strict=True)]
    return trace_of(
        modules=LAYERS,
        types=TYPES,
        output_rms=np.ones(4),
        output_dead_fraction=shares,
        output_grad_l2_norm=np.ones(4),
        input_grad_l2_norm=[np.nan, 1.0, gain, 1.0],
        weight_l2_norm=[1.0, np.nan, 1.0, np.nan],
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    recorded().save("healthy.h5")
    recorded("act1").save("sick.h5")
    (tmp_path / "pyproject.toml").write_text("[tool.gradscope]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["healthy.h5"], 0),
        (["sick.h5"], 1),
        (["healthy.h5", "sick.h5"], 1),
        (["sick.h5", "--fail-on", "never"], 0),
        (["sick.h5", "--ignore", "GS3"], 0),
        (["sick.h5", "--select", "GS4,GS2"], 0),
        (["sick.h5", "--select", "dead-units"], 1),
        (["gone.h5"], 2),
        (["sick.h5", "--select", "GS9"], 2),
        ([], 2),
    ],
)
@pytest.mark.usefixtures("folder")
def test_exit_codes(cli, words, code):
    assert cli("check", *words).code == code


@pytest.mark.usefixtures("folder")
def test_the_report_names_target_code_module_and_the_outcome(cli):
    outcome = cli("check", "healthy.h5", "sick.h5")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("healthy.h5  passed")
    assert any(line.startswith("sick.h5     failed: 1 error") for line in lines)
    assert "error GS301 dead-units  act1" in outcome.out
    assert "failed: 1 error in 1 of 2 targets" in lines[-1]
    assert outcome.err == ""


def test_a_trace_that_cannot_be_judged_is_told_and_the_others_are_judged(cli, folder):
    TraceBuilder().finish((), {}).save("empty.h5")
    (folder / "torn.h5").write_bytes((folder / "sick.h5").read_bytes()[:3000])
    outcome = cli("check", "empty.h5", "torn.h5", "sick.h5", "-o", "all.json")
    assert outcome.code == 2
    assert outcome.err == "gradscope: wrote all.json\n"  # each is told once, where the verdict is
    assert "empty.h5: no step was recorded" in outcome.out
    assert outcome.out.count("torn.h5") == 2
    assert "GS301" in outcome.out
    document = json.loads(Path("all.json").read_text())
    assert [bool(target["error"]) for target in document["targets"]] == [True, True, False]
    assert document["ok"] is False


@pytest.mark.usefixtures("folder")
def test_where_no_rule_could_judge_nothing_is_known(cli):
    trace_of(steps=1, modules=LAYERS, types=TYPES, output_rms=np.ones(4), weight_grad_l2_norm=np.ones(4)).save(
        "short.h5"
    )
    outcome = cli("check", "short.h5", "--select", "GS103,GS301")
    assert outcome.code == 2
    assert "short.h5: nothing could be judged" in outcome.err


def test_a_scripts_model_that_cannot_be_judged_hides_no_other(cli, folder, monkeypatch):
    short = trace_of(steps=1, modules=LAYERS, types=TYPES, output_rms=np.ones(4), weight_grad_l2_norm=np.ones(4))
    monkeypatch.setattr("gradscope.rehearsal.rehearse", lambda *_, **__: [("aux", short), ("net", recorded("act1"))])
    (folder / "two.py").touch()
    outcome = cli("check", "two.py", "--select", "GS301")
    assert outcome.code == 2
    assert outcome.err == ""
    assert "nothing could be judged (dead-units: " in outcome.out
    assert "two.py:net  failed: 1 error" in outcome.out


@pytest.mark.usefixtures("folder")
def test_one_that_cannot_be_judged_alone_is_one_line_on_stderr(cli):
    Path("torn.h5").write_text("not HDF5")
    outcome = cli("check", "torn.h5")
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.count("torn.h5") == 1


# ---------------------------------------------------------------- the baseline


@pytest.mark.usefixtures("folder")
def test_the_life_of_a_baseline(cli):
    written = cli("check", "sick.h5", "--write-baseline", "known.json")
    assert written.code == 0
    assert "wrote known.json: 1 finding of 1 target" in written.err
    assert cli("check", "sick.h5").code == 1
    known = cli("check", "sick.h5", "--baseline", "known.json")
    assert known.code == 0
    assert "known to the baseline: GS301 act1" in known.out

    recorded("act1", "act2").save("sick.h5")  # a second fault beside the known one
    worse = cli("check", "sick.h5", "--baseline", "known.json")
    assert worse.code == 1
    assert "GS301" in worse.out

    recorded().save("sick.h5")
    mended = cli("check", "sick.h5", "--baseline", "known.json")
    assert mended.code == 0
    assert "1 finding of the baseline is gone (GS301 act1); --write-baseline lets it shrink" in mended.out
    assert cli("check", "sick.h5", "--write-baseline", "known.json").code == 0
    assert json.loads(Path("known.json").read_text())["findings"] == []


@pytest.mark.usefixtures("folder")
def test_what_was_not_asked_for_keeps_its_place_in_the_baseline(cli):
    recorded("act2").save("other.h5")
    cli("check", "sick.h5", "--write-baseline", "known.json")
    cli("check", "other.h5", "--write-baseline", "known.json")
    document = json.loads(Path("known.json").read_text())
    assert [(f["target"], f["module"]) for f in document["findings"]] == [("other.h5", "act2"), ("sick.h5", "act1")]
    assert sorted(document["profiles"]) == ["other.h5", "sick.h5"]


def test_the_targets_of_the_settings_leave_what_the_tests_know(cli, folder):
    (folder / "pyproject.toml").write_text(
        '[tool.gradscope]\n[[tool.gradscope.check]]\nname = "net"\nmodel = "gate_nets:net"\nbatch = "gate_nets:batch"\n'
        'loss = "torch.nn.functional:mse_loss"\nsteps = 4\n'
    )
    (folder / "gate_nets.py").write_text(
        "import torch\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), "
        "torch.nn.Linear(8, 1))\n\ndef batch():\n    return torch.randn(8, 2), torch.randn(8, 1)\n"
    )
    of_test, of_old_target = Identity("t.py::a", "GS301", "x"), Identity("renamed", "GS301", "x")
    write_baseline(
        Baseline(findings=frozenset({of_test, of_old_target}), profiles={"t.py::a": {"x": 0.5}}), Path("known.json")
    )
    assert cli("check", "--write-baseline", "known.json").code == 0
    now = read_baseline(Path("known.json"))
    assert now.findings == {of_test}
    assert sorted(now.profiles) == ["net", "t.py::a"]


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_no_baseline_is_not_written_over(cli):
    Path("notes.json").write_text("{}")
    outcome = cli("check", "sick.h5", "--write-baseline", "notes.json")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.endswith("it has none; delete it, or name another file.\n")
    assert Path("notes.json").read_text() == "{}"


@pytest.mark.usefixtures("folder")
def test_no_baseline_is_written_of_what_could_not_be_judged(cli):
    Path("torn.h5").write_text("not HDF5")
    outcome = cli("check", "sick.h5", "torn.h5", "--write-baseline", "known.json")
    assert outcome.code == 2
    assert "no baseline was written: torn.h5 could not be judged" in outcome.err
    assert not Path("known.json").exists()


@pytest.mark.usefixtures("folder")
def test_a_gain_that_drifts_from_the_stored_profile_fails(cli):
    cli("check", "healthy.h5", "--write-baseline", "known.json")
    held = ["check", "healthy.h5", "--baseline", "known.json", "--max-drift", "0.5"]
    assert cli(*held).code == 0
    recorded(gain=2.0).save("healthy.h5")
    assert cli(*held).code == 0
    recorded(gain=10.0).save("healthy.h5")
    outcome = cli(*held)
    assert outcome.code == 1
    assert "gain-drift  fc2" in outcome.out
    assert cli(*held[:4]).code == 0


@pytest.mark.usefixtures("folder")
def test_a_baseline_from_the_settings_is_used(cli):
    cli("check", "sick.h5", "--write-baseline", "known.json")
    Path("pyproject.toml").write_text('[tool.gradscope]\nbaseline = "known.json"\n')
    assert cli("check", "sick.h5").code == 0
    Path("known.json").unlink()
    outcome = cli("check", "sick.h5")
    assert outcome.code == 2
    assert "--write-baseline" in outcome.err


@pytest.mark.usefixtures("folder")
def test_a_suppression_with_its_reason(cli):
    Path("pyproject.toml").write_text(
        '[[tool.gradscope.suppress]]\nrule = "GS301"\nmodule = "act*"\nreason = "pruned on purpose"\n'
    )
    outcome = cli("check", "sick.h5")
    assert outcome.code == 0
    assert "1 finding is suppressed (pruned on purpose): GS301 act1" in outcome.out


# ---------------------------------------------------------------- outputs


@pytest.mark.usefixtures("folder")
def test_several_outputs_at_once(cli):
    outcome = cli("check", "sick.h5", "-o", "out.json", "-o", "out.txt", "--quiet")
    assert (outcome.code, outcome.out) == (1, "")
    assert json.loads(Path("out.json").read_text())["findings"][0]["code"] == "GS301"
    assert "GS301 dead-units  act1" in Path("out.txt").read_text()


@pytest.mark.usefixtures("folder")
def test_a_trace_is_not_written_over(cli):
    before = Path("sick.h5").read_bytes()
    outcome = cli("check", "sick.h5", "--output-format", "json", "-o", "sick.h5")
    assert outcome.code == 2
    assert Path("sick.h5").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["--baseline", "known.json", "-o", "known.json"],
        ["--write-baseline", "known.json", "-o", "known.json"],
        ["--write-baseline", "new.json", "-o", "new.json"],
        ["--output-format", "json", "-o", "pyproject.toml"],
        ["--write-baseline", "pyproject.toml"],
        ["--write-baseline", "sick.h5"],
    ],
)
def test_a_file_that_is_read_or_written_otherwise_is_not_written_over(cli, folder, words):
    cli("check", "sick.h5", "--write-baseline", "known.json")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcome = cli("check", "sick.h5", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert "is a file that is judged or read, or written by another option; name another one." in outcome.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_current_folder_can_be_imported_from_and_is_forgotten_again(folder: Path):
    before = list(sys.path)
    with importable(folder / "root"):
        assert sys.path[:2] == [os.getcwd(), str(folder / "root")]
    assert sys.path == before


@pytest.mark.usefixtures("folder")
def test_a_trace_in_which_no_gradient_reached_a_parameter_is_not_healthy(cli):
    """As of a script whose loss depends on nothing that the model computes."""
    trace_of(
        modules=LAYERS,
        types=TYPES,
        output_rms=np.ones(4),
        output_dead_fraction=[np.nan, 0.0, np.nan, 0.0],
        weight_l2_norm=[1.0, np.nan, 1.0, np.nan],
        weight_grad_l2_norm=np.full(4, np.nan),
    ).save("idle.h5")
    outcome = cli("check", "idle.h5")
    assert outcome.code == 2
    assert outcome.err == (
        "gradscope: idle.h5: no parameter got a gradient in 10 recorded steps, so nothing was trained that could be"
        " judged; does the loss depend on the model's outputs?\n"
    )


@pytest.mark.usefixtures("folder")
def test_a_configured_baseline_can_be_left_out(cli):
    cli("check", "sick.h5", "--write-baseline", "known.json")
    Path("pyproject.toml").write_text('[tool.gradscope]\nbaseline = "known.json"\nmax-drift = 0.5\n')
    assert cli("check", "sick.h5").code == 0
    assert cli("check", "sick.h5", "--no-baseline").code == 1
    both = cli("check", "sick.h5", "--no-baseline", "--baseline", "known.json")
    assert both.code == 2
    assert "`--baseline known.json` and `--no-baseline` exclude each other" in both.err


@pytest.mark.usefixtures("folder")
def test_one_that_passes_says_in_a_line_what_was_not_judged_and_one_that_fails_says_why(cli):
    passed, failed = cli("check", "healthy.h5"), cli("check", "sick.h5")
    assert "--output-format json says why" in passed.out
    assert "needs " not in passed.out
    assert re.search(r"not judged [^:]+: needs ", failed.out)

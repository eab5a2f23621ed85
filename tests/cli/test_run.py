import json
import subprocess
import sys
from pathlib import Path

import pytest
from examples import HEALTHY, SICK, network

from gradscope.cli.run import parse_settings
from gradscope.errors import UsageError
from gradscope.scenarios import runner
from gradscope.scenarios.base import Scenario, ScenarioResult, Variant, VariantRun

VARIANTS = (
    Variant(name="sigmoid", build=None, optimizer=None, expect=frozenset({"GS101"})),
    Variant(name="relu, He", build=None, optimizer=None, forbid=frozenset({"GS101"})),
)


def scenario(name="a-vs-b"):
    return Scenario(
        name=name,
        question="Which?",
        lesson="That one.",
        source="Somebody 2010",
        task=None,
        variants=VARIANTS,
        steps=10,
        measure=None,
        settings={"depth": 15},
        units={"gain": ".2f"},
    )


@pytest.fixture
def calls(monkeypatch, installed):
    """Two scenarios, and a runner that writes traces without training; yields what it was called with."""
    seen = []
    installed(scenarios=(scenario(), scenario("c-vs-d")))

    def run(which, *, seeds, steps, settings, directory, jobs, on_step):
        seen.append({"scenario": which.name, "seeds": list(seeds), "steps": steps, "settings": settings, "jobs": jobs})
        directory.mkdir(parents=True, exist_ok=True)
        runs = []
        for variant in which.variants:
            for seed in seeds:
                sick = variant.name == "sigmoid"
                path = directory / runner.trace_name(variant.name, seed)
                network(0.25 if sick else 0.98).save(path)
                on_step(variant.name, seed, 10, 10)
                runs.append(
                    VariantRun(
                        variant=variant.name,
                        seed=seed,
                        diagnosis=SICK if sick and steps != 1 else HEALTHY,
                        loss_first=2.3,
                        loss_last=float("inf") if sick else 0.1,
                        metrics={"gain": 0.25 if sick else float("nan")},
                        trace=path,
                    )
                )
        return ScenarioResult(scenario=which, seeds=tuple(seeds), runs=tuple(runs))

    monkeypatch.setattr(runner, "run", run)
    return seen


def test_as_expected_is_exit_0_and_everything_lies_in_out(cli, calls, tmp_path):
    outcome = cli("run", "a-vs-b", "--out", tmp_path, "--seeds", "2")
    assert outcome.code == 0
    assert "as expected" in outcome.out.splitlines()[0]
    assert f"Files {tmp_path / 'a-vs-b'}" in outcome.out
    assert f"Page  {tmp_path / 'a-vs-b' / 'report.html'}" in outcome.out
    names = {path.name for path in (tmp_path / "a-vs-b").iterdir()}
    assert names >= {"result.json", "report.html", "gradient-by-depth.png", "loss.png", "heatmap.png"}
    assert names >= {f"{v}-seed{s}.{e}" for v in ("sigmoid", "relu-he") for s in (0, 1) for e in ("h5", "csv")}
    assert outcome.err == ""  # no progress bar where there is no terminal


def test_not_as_expected_is_exit_1(cli, calls, tmp_path):
    outcome = cli("run", "a-vs-b", "--steps", "1", "--out", tmp_path)
    assert outcome.code == 1
    assert "sigmoid, seed 0, does not show GS101" in outcome.out


def test_without_out_a_temporary_folder_is_named(cli, calls, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    outcome = cli("run", "a-vs-b")
    folder = Path(next(line for line in outcome.out.splitlines() if line.startswith("Files ")).removeprefix("Files "))
    assert folder.is_relative_to(tmp_path / "temporary")
    assert {path.suffix for path in folder.iterdir()} == {".h5", ".json", ".html", ".png"}
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_options_reach_the_runner(cli, calls, tmp_path):
    words = ["--seeds", "3", "--steps", "7", "--set", "depth=30", "--jobs", "2", "--out", tmp_path]
    cli("run", "c-vs-d", *words)
    assert calls == [
        {"scenario": "c-vs-d", "seeds": [0, 1, 2], "steps": 7, "settings": {"depth": "30"}, "jobs": 2},
    ]


def test_json_is_a_document_a_line(cli, calls, tmp_path):
    outcome = cli("run", "--all", "--format", "json", "--out", tmp_path)
    documents = [json.loads(line) for line in outcome.out.splitlines()]
    assert [d["scenario"] for d in documents] == ["a-vs-b", "c-vs-d"]
    (sigmoid, relu) = documents[0]["variants"]
    assert documents[0]["schema"] == "gradscope/scenario/1"
    assert sigmoid["loss"]["last"] == "inf"
    assert relu["metrics"]["gain"] == "nan"
    assert json.loads((tmp_path / "a-vs-b" / "result.json").read_text(encoding="utf-8")) == documents[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a-vs-c"], "'a-vs-c' is no scenario; did you mean 'a-vs-b'?"),
        ([], "`gradscope run` takes scenarios or `--all`; `gradscope list scenarios` shows them."),
        (["a-vs-b", "--set", "dpeth=3"], "`--set dpeth=3`: a-vs-b has no setting 'dpeth'; did you mean 'depth'?"),
        (["a-vs-b", "--set", "depth"], "`--set depth` must be NAME=VALUE, such as `--set depth=30`."),
    ],
)
def test_bad_input_is_said_before_anything_is_trained(cli, calls, tmp_path, words, said):
    outcome = cli("run", *words, "--out", tmp_path / "new")
    assert (outcome.code, outcome.err) == (2, f"gradscope: {said}\n")
    assert calls == []
    assert not (tmp_path / "new").exists()


def test_a_scenario_named_twice_runs_once(cli, calls, tmp_path):
    cli("run", "a-vs-b", "a-vs-b", "--out", tmp_path)
    assert len(calls) == 1


@pytest.mark.slow
def test_a_real_scenario_runs_from_the_shell(tmp_path):
    command = [sys.executable, "-m", "gradscope", "run", "sigmoid-vs-relu", "--steps", "3", "--set", "depth=4"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode in (0, 1), done.stderr  # three steps are too few for what a variant must show
    assert done.stderr == ""
    assert "Gradient ∂L/∂y by depth" in done.stdout
    result = json.loads((tmp_path / "sigmoid-vs-relu" / "result.json").read_text(encoding="utf-8"))
    assert Path(result["variants"][0]["trace"]).is_file()


def test_settings_are_pairs():
    assert parse_settings(["depth=30", "name = a=b"]) == {"depth": "30", "name": "a=b"}
    with pytest.raises(UsageError, match="sets 'depth' a second time"):
        parse_settings(["depth=30", "depth=31"])
    with pytest.raises(UsageError, match="must be NAME=VALUE"):
        parse_settings(["=3"])

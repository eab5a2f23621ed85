import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.exhibits import Exhibit
from gradscope.scenarios import clipping, rnn_vs_lstm, sigmoid_vs_relu
from gradscope.scenarios.runner import _clip, read_settings, run, trace_name
from gradscope.storage import read_trace

SMALL = {"depth": "3", "width": "8"}
TWO = replace(
    sigmoid_vs_relu.SCENARIO, variants=sigmoid_vs_relu.SCENARIO.variants[:1] + sigmoid_vs_relu.SCENARIO.variants[-1:]
)


def run_small(directory, scenario=TWO, *, seeds=(0,), steps=4, settings=SMALL, jobs=1, on_step=None):
    return run(scenario, seeds=seeds, steps=steps, settings=settings, directory=directory, jobs=jobs, on_step=on_step)


def numbers(result):
    return [(r.variant, r.seed, r.loss_first, r.loss_last, *r.metrics.values()) for r in result.runs]


def test_every_variant_is_trained_with_every_seed_and_its_trace_kept(tmp_path):
    result = run_small(tmp_path / "new", seeds=(3, 1))
    assert [(r.variant, r.seed) for r in result.runs] == [("sigmoid", 3), ("sigmoid", 1), ("gelu", 3), ("gelu", 1)]
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "sigmoid-seed3.h5", "sigmoid-seed1.h5", "gelu-seed3.h5", "gelu-seed1.h5"
    }  # fmt: skip
    trace = read_trace(result.runs[3].trace)
    assert trace.steps.tolist() == [0, 1, 2, 3]
    assert trace.meta["scenario"] == "sigmoid-vs-relu"
    assert (trace.meta["variant"], trace.meta["seed"], trace.meta["settings"]["depth"]) == ("gelu", 1, 3)
    losses = trace.per_step["loss"]
    assert (result.runs[3].loss_first, result.runs[3].loss_last) == pytest.approx((losses[0], losses[-1]), rel=1e-6)
    assert set(result.runs[0].metrics) == set(TWO.units)


def test_a_seed_decides_everything(tmp_path):
    torch.manual_seed(5)
    one = run_small(tmp_path / "one", seeds=(0, 1))
    torch.manual_seed(6)
    other = run_small(tmp_path / "other", seeds=(1,))
    assert str(numbers(one)[1]) == str(numbers(other)[0])  # as text, in which NaN equals NaN
    assert numbers(one)[0][2] != numbers(one)[1][2]


def test_several_jobs_give_the_same_numbers(tmp_path):
    seen = []
    alone = run_small(tmp_path / "alone", seeds=(0, 1))
    together = run_small(tmp_path / "together", seeds=(0, 1), jobs=2, on_step=lambda *at: seen.append(at))
    assert str(numbers(together)) == str(numbers(alone))
    assert sorted(seen) == [(v, s, 4, 4) for v in ("gelu", "sigmoid") for s in (0, 1)]
    for one, other in zip(alone.runs, together.runs, strict=True):
        assert one.diagnosis == other.diagnosis
        a, b = read_trace(one.trace), read_trace(other.trace)
        assert a.sites == b.sites
        assert all(np.array_equal(a.statistics[s], b.statistics[s], equal_nan=True) for s in a.statistics)


def test_every_nth_step_is_recorded_and_all_are_trained(tmp_path):
    sparse = replace(TWO, every=3, variants=TWO.variants[:1])
    (one,) = run_small(tmp_path, sparse, steps=7).runs
    (all_of_them,) = run_small(tmp_path / "all", replace(sparse, every=1), steps=7).runs
    assert read_trace(one.trace).steps.tolist() == [0, 3, 6]
    assert (one.loss_first, one.loss_last) == (all_of_them.loss_first, all_of_them.loss_last)


def _exhibits(trained):
    yield Exhibit(title=trained.variant, heads=("step", "loss"), rows=(("0", trained.losses[0]), ("1", math.nan)))


def test_exhibits_travel_with_the_result_and_into_the_document(tmp_path):
    result = run_small(tmp_path, replace(TWO, exhibits=_exhibits))
    assert [run.exhibits[0].title for run in result.runs] == ["sigmoid", "gelu"]
    (first, _) = result.to_dict()["variants"]
    ((exhibit,), rows) = (first["exhibits"], first["exhibits"][0]["rows"])
    assert exhibit["heads"] == ["step", "loss"]
    assert rows[1] == ["1", "nan"]
    assert "exhibits" not in run_small(tmp_path).to_dict()["variants"][0]


def test_progress_is_told_step_by_step(tmp_path):
    seen = []
    run_small(tmp_path, on_step=lambda *at: seen.append(at))
    assert seen == [(variant, 0, done, 4) for variant in ("sigmoid", "gelu") for done in (1, 2, 3, 4)]


def test_the_callers_generator_and_threads_stay(tmp_path):
    torch.set_num_threads(2)
    try:
        before = torch.get_rng_state()
        run_small(tmp_path, steps=1)
        assert torch.equal(before, torch.get_rng_state())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_loss_that_is_nan_ends_the_run_but_not_the_scenario(tmp_path):
    seen = []
    lost = replace(clipping.SCENARIO, variants=(clipping.SCENARIO.variant("recurrent, no clipping"),))
    (one,) = run_small(
        tmp_path, lost, steps=40, settings={"lr_recurrent": "10", "hidden": "8"}, on_step=lambda *at: seen.append(at)
    ).runs
    trace = read_trace(one.trace)
    assert 1 < len(trace.steps) < 40
    assert not math.isfinite(one.loss_last)
    assert not math.isfinite(trace.per_step["loss"][-1])
    assert np.isfinite(trace.per_step["loss"][:-1]).all()
    assert one.diagnosis.steps == len(trace.steps)
    assert seen[-1] == ("recurrent, no clipping", 0, 40, 40)


def _broken(*args):
    raise RuntimeError("this scenario is broken")


def test_a_broken_scenario_leaves_nothing_behind(tmp_path):
    broken = replace(TWO, variants=(TWO.variants[0], replace(TWO.variants[1], clip=_broken)))
    with pytest.raises(RuntimeError, match="is broken"):
        run_small(tmp_path, broken)
    assert not list(tmp_path.iterdir())


def test_a_broken_scenario_leaves_earlier_results_alone(tmp_path):
    (first, _) = run_small(tmp_path).runs
    before = first.trace.read_bytes()
    with pytest.raises(RuntimeError, match="is broken"):
        run_small(tmp_path, replace(TWO, measure=_broken), steps=2)
    assert first.trace.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_expectations_decide(tmp_path):
    healthy, other = TWO.variants
    never = replace(TWO, variants=(replace(healthy, expect=frozenset({"GS999"})), replace(other, forbid=frozenset())))
    result = run_small(tmp_path, never)
    assert not result.as_expected
    assert [v["as_expected"] for v in result.to_dict()["variants"]] == [False, True]


def test_what_is_expected_may_depend_on_the_settings(tmp_path):
    sick, other = TWO.variants
    deep = replace(sick, expect=frozenset({"GS999"}), expect_if=lambda settings: int(settings["depth"]) > 3)
    scenario = replace(TWO, variants=(deep, replace(other, forbid=frozenset())))
    assert run_small(tmp_path, scenario).as_expected
    assert not run_small(tmp_path, scenario, settings={**SMALL, "depth": "4"}).as_expected


def test_settings_take_the_type_of_the_default():
    settings = read_settings(rnn_vs_lstm.SCENARIO, {"lag": "60", "lr": "1", "task": "digits"})
    assert settings == {**rnn_vs_lstm.SCENARIO.settings, "lag": 60, "lr": 1.0, "task": "digits"}
    assert isinstance(settings["lr"], float)


BAD = {
    "unknown": ({"lagg": "3"}, "`--set lagg=3`: rnn-vs-lstm has no setting 'lagg'; did you mean 'lag'?"),
    "no number": ({"lag": "long"}, "`--set lag=long` must be a whole number from 20 to 2000; the default is 100."),
    "no whole number": ({"lag": "4.5"}, "`--set lag=4.5` must be a whole number from 20 to 2000; the default is 100."),
    "too small": ({"lag": "1"}, "`--set lag=1` must be a whole number from 20 to 2000; the default is 100."),
    "nan": ({"lr": "nan"}, "`--set lr=nan` must be a number from 1e-08 to 10; the default is 0.01."),
    "infinite": ({"lr": "inf"}, "`--set lr=inf` must be a number from 1e-08 to 10; the default is 0.01."),
    "no choice": ({"task": "ading"}, "`--set task=ading`: 'ading' is no task of rnn-vs-lstm; did you mean 'adding'?"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD)
def test_a_bad_setting_is_quoted(settings, message, tmp_path):
    with pytest.raises(UsageError) as error:
        run_small(tmp_path / "out", rnn_vs_lstm.SCENARIO, settings=settings)
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}, {"seeds": (2**31,)}, {"steps": 0}, {"jobs": 0}]
)
def test_counts_that_cannot_work_are_quoted(wrong, tmp_path):
    (name,) = wrong
    with pytest.raises(UsageError, match=f"`{name}="):
        run_small(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_names_of_files_are_plain():
    assert trace_name("what's it, now?", 3) == "what-s-it-now-seed3.h5"
    assert trace_name("tanh, normal 0.01", 0) == "tanh-normal-0.01-seed0.h5"


def test_the_cosine_is_between_the_whole_gradients():
    model = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))
    model[0].weight.grad = torch.tensor([[3.0, 4.0]])
    assert _clip(lambda m, s: m[0].weight.grad.mul_(1e-3), model, {}) == pytest.approx(1)
    model[0].weight.grad = torch.tensor([[3e30, 4e30]])
    assert _clip(lambda m, s: m[0].weight.grad.clamp_(max=1.0), model, {}) == pytest.approx(7 / 5 / math.sqrt(2))
    model[0].weight.grad = torch.zeros(1, 2)
    assert math.isnan(_clip(lambda m, s: None, model, {}))

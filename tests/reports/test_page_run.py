"""The facts of a run."""

import math

from builders import rank_trace, trace_of
from examples import META

from gradscope.reports.page_run import facts, optimizer


def test_all_that_is_known_is_told():
    meta = {
        **META,
        "scenario": "a-vs-b",
        "variant": "a",
        "seed": 0,
        "settings": {"depth": 15, "lr": 0.01, "betas": [0.9, 0.99], "task": "adding", "tied": True},
        "every": 10,
        "frozen": [f"f{i}" for i in range(10)],
        "torch": "2.13.0",
        "gradscope": "0.1.0",
    }
    said = dict(facts(trace_of(output_rms=[1.0], steps=3, every=10, loss=[2.0, 1.5, 1.0], meta=meta)))
    assert said["seed"] == "0"
    assert said["settings"] == "depth 15, lr 0.01, betas 0.9, 0.99, task adding, tied yes"
    assert said["schedule"] == "every 10 steps"
    assert said["loss"] == "2 in step 0, 1 in step 20"
    assert said["learning rate"] == "0.1"
    assert said["frozen"].endswith("f7 and 2 more")
    assert said["versions"] == "gradscope 0.1.0, torch 2.13.0"
    assert said["parameters"] == "12,345"


def test_a_loss_that_ends_in_nan_has_no_value_in_the_last_step():
    said = dict(facts(trace_of(output_rms=[1.0], steps=3, loss=[2.0, 5.0, math.nan])))
    assert said["loss"] == "2 in step 0, 5 in step 1"


def test_what_is_not_known_is_left_out():
    said = dict(facts(trace_of(output_rms=[1.0], meta={"every": "log_spaced(9)"})))
    assert said.keys() == {"steps", "schedule", "sites", "learning rate"}
    assert said["schedule"] == "log_spaced(9)"


def test_one_rank_of_several_says_so():
    assert dict(facts(rank_trace(1)))["ranks"] == "rank 1 of 2 only"


def test_groups_stand_beside_each_other_without_what_is_off_in_all():
    made = optimizer(
        {
            "type": "AdamW",
            "lr": 0.1,
            "groups": [
                {"lr": 0.1, "betas": [0.9, 0.999], "weight_decay": 0, "foreach": False, "parameters": ["a", "b"]},
                {"lr": 1e-5, "betas": [0.9, 0.999], "weight_decay": 0.01, "foreach": False, "parameters": []},
            ],
        }
    )
    assert made.title == "AdamW"
    assert made.settings == ["lr", "betas", "weight_decay"]
    assert [group.cells for group in made.groups] == [["0.1", "0.9, 0.999", "0"], ["1e-05", "0.9, 0.999", "0.01"]]
    assert made.groups[0].parameters == ["a", "b"]
    assert made.shared == "off or zero: foreach"


def test_an_optimizer_without_groups_is_one_line():
    made = optimizer({"type": "SGD", "lr": 0.5})
    assert made.settings == ["lr"]
    assert [group.cells for group in made.groups] == [["0.5"]]

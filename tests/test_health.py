import doctest
import pickle

import pytest
import torch
from torch import nn

import gradscope
from gradscope import health
from gradscope.errors import UsageError
from gradscope.findings import Severity
from gradscope.rules import RULES


def net(*, dead: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    if dead:
        nn.init.constant_(model[2].bias, -10)
    return model


def pair():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 4, generator=generator), torch.randint(3, (32,), generator=generator)


def test_a_healthy_model_passes_and_its_diagnosis_comes_back():
    diagnosis = gradscope.assert_healthy(net(), batch=pair, loss=nn.CrossEntropyLoss, seeds=2)
    assert diagnosis.ok
    assert diagnosis.steps == 40
    assert gradscope.check(net(), batch=pair, loss=nn.CrossEntropyLoss, seeds=2) == diagnosis


def test_the_failure_lists_the_findings_as_the_terminal_does():
    with pytest.raises(gradscope.UnhealthyModel) as caught:
        gradscope.assert_healthy(net(dead=True), batch=pair, loss=nn.CrossEntropyLoss)
    error = caught.value
    assert isinstance(error, AssertionError)
    assert error.diagnosis.worst is Severity.ERROR
    lines = str(error).splitlines()
    assert lines[0] == "Sequential is not healthy: error GS301 dead-units at 3"
    assert lines[2:5] == [
        "1 error  20 steps, 42 sites",
        "",
        "error GS301 dead-units  3",
    ]
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in str(error)


def test_a_failure_survives_the_way_home_from_another_process():
    with pytest.raises(gradscope.UnhealthyModel) as caught:
        gradscope.assert_healthy(net(dead=True), batch=pair, loss=nn.CrossEntropyLoss)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.diagnosis) == (str(caught.value), caught.value.diagnosis)


def test_rules_are_chosen_by_code_and_name():
    given = {"batch": pair, "loss": nn.CrossEntropyLoss}
    assert gradscope.assert_healthy(net(dead=True), **given, ignore=["GS301", "no-gradient"]).ok
    assert gradscope.assert_healthy(net(dead=True), **given, select=["GS5"]).ok
    with pytest.raises(gradscope.UnhealthyModel):
        gradscope.assert_healthy(net(dead=True), **given, select=["GS1"])
    with pytest.raises(UsageError, match="leave out `select=` and `ignore=`"):
        gradscope.assert_healthy(net(), **given, select=["GS1"], rules=[RULES[0]()])


def test_what_nobody_could_judge_is_not_healthy():
    with pytest.raises(UsageError, match=r"nothing could be judged \(dead-units: needs .*\); train for more steps"):
        gradscope.assert_healthy(net(), batch=pair, loss=nn.CrossEntropyLoss, steps=1, select=["GS301"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "`seeds=0` must be a whole number from 1 on: how many times to train."),
        ({"seeds": True}, "`seeds=True` must be a whole number from 1 on: how many times to train."),
        ({"fail_on": "eror"}, "`fail_on='eror'` must be one of 'error', 'warning', 'info'."),
    ],
)
def test_misuse_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        gradscope.assert_healthy(net(), batch=pair, loss=nn.CrossEntropyLoss, **given)
    assert str(caught.value) == message


def test_the_examples_run():
    torch.manual_seed(0)
    assert doctest.testmod(health, optionflags=doctest.ELLIPSIS).failed == 0

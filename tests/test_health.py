import doctest
import os
import pickle
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

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
    with pytest.raises(UsageError, match="is the class of a rule"):
        gradscope.check(lambda: pytest.fail("nothing is trained"), **given, rules=RULES)


def test_never_fails_for_no_finding():
    found = gradscope.assert_healthy(net(dead=True), batch=pair, loss=nn.CrossEntropyLoss, fail_on="never")
    assert found.worst is Severity.ERROR


def test_what_nobody_could_judge_is_not_healthy():
    with pytest.raises(UsageError, match=r"nothing could be judged \(dead-units: needs .*\); train for more steps"):
        gradscope.assert_healthy(net(), batch=pair, loss=nn.CrossEntropyLoss, steps=1, select=["GS301"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 0}, "`seeds=0` must be a whole number from 1 on: how many times to train."),
        ({"seeds": True}, "`seeds=True` must be a whole number from 1 on: how many times to train."),
        ({"fail_on": "eror"}, "`fail_on='eror'` must be one of 'error', 'warning', 'info', 'never'."),
    ],
)
def test_misuse_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        gradscope.assert_healthy(net(), batch=pair, loss=nn.CrossEntropyLoss, **given)
    assert str(caught.value) == message


def test_the_examples_run():
    torch.manual_seed(0)
    assert doctest.testmod(health, optionflags=doctest.ELLIPSIS).failed == 0


def shared() -> tuple[object, ...]:
    """What a process shares, as a caller can see it."""
    return (
        random.getstate(),
        str(np.random.get_state()),
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        os.getcwd(),
        list(sys.path),
        dict(os.environ),
        list(warnings.filters),
    )


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_a_factory_that_changes_everything_changes_nothing_for_the_caller(ends):
    calls = []

    def build():
        calls.append(torch.get_default_dtype())
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(True)
        os.chdir("/")
        sys.path.insert(0, "/nowhere")
        os.environ["GRADSCOPE_TEST"] = "1"
        warnings.simplefilter("ignore")
        if ends == "with an error":
            raise RuntimeError("no weights")
        return nn.Linear(4, 3)

    def batch():
        return torch.randn(8, 4), torch.randint(3, (8,))

    before = shared()
    if ends == "well":
        assert gradscope.check(build, batch=batch, loss=nn.CrossEntropyLoss, seeds=3).steps == 60
        assert calls == [torch.float32] * 3  # once for each seed, and each begins from the caller's state
    else:
        with pytest.raises(RuntimeError, match="no weights"):
            gradscope.check(build, batch=batch, loss=nn.CrossEntropyLoss)
    assert shared() == before


class Deep(nn.Sequential):
    """Linear layers whose weights are computed by `norm`, drawn with a spread of `std`."""

    def __init__(self, norm, std=None):
        layers = [nn.Linear(20, 20) for _ in range(10)]
        for layer in layers if std is not None else ():
            nn.init.normal_(layer.weight, 0, std)
        super().__init__(*(part for layer in layers for part in (norm(layer), nn.ReLU())), nn.Linear(20, 3))


def tiny(n=32):
    x = torch.randn(n, 20)
    return x, x[:, :3].argmax(1)


@pytest.mark.parametrize("norm", [nn.Identity, nn.utils.parametrizations.weight_norm], ids=["plain", "weight_norm"])
def test_layers_whose_weights_a_parametrization_makes_are_judged_as_others(norm):
    def build():
        return Deep((lambda layer: layer) if norm is nn.Identity else norm, std=0.02)

    found = gradscope.check(build, batch=tiny, loss=F.cross_entropy)
    errors = [(f.code, f.module) for f in found.findings if f.severity is Severity.ERROR]
    assert errors == [("GS304", "0"), ("GS101", "0")]
    assert "2 has an rms of 0.02" in found.findings[0].remedy


def test_of_a_weight_whose_scale_a_parametrization_sets_no_scale_is_told():
    found = gradscope.check(lambda: Deep(nn.utils.parametrizations.spectral_norm), batch=tiny, loss=F.cross_entropy)
    (vanishing,) = (f for f in found.findings if f.code == "GS101")
    assert "What makes the weights, a parametrization, sets their scale" in vanishing.cause
    assert not any(item.rule in ("vanishing-gradient", "symmetric-init") for item in found.not_judged)


def test_a_parametrized_layer_that_is_cut_off_is_an_error_at_the_layer():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.utils.parametrizations.weight_norm(nn.Linear(20, 8, bias=False))
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(x).detach())

    (cut,) = gradscope.check(Cut, batch=tiny, loss=F.cross_entropy).roots
    assert (cut.severity.value, cut.code, cut.module) == ("error", "GS103", "body")

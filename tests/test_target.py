"""What `attach` is given: bad input gets a sentence; what is right is described."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError
from gradscope.target import about, about_optimizer, bare_optimizer, target_of


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def other() -> torch.optim.Optimizer:
    return torch.optim.SGD(net().parameters(), lr=0.1)


MISUSE = {
    "no module": (lambda: gradscope.attach([1, 2]), r"`attach\(\[1, 2\]\)` needs a torch.nn.Module"),
    "no parameters": (lambda: gradscope.attach(nn.ReLU()), r"`attach\(ReLU\)`: the model has no parameters"),
    "another model's": (lambda: gradscope.attach(net(), optimizer=other()), r"`optimizer=SGD` holds none of the param"),
    "no optimizer": (lambda: gradscope.attach(net(), optimizer=["adam"]), r"must be a torch.optim.Optimizer"),
    "probes": (lambda: gradscope.attach(net(), probes=["activations"]), r"`probes=`: 'activations' is no Probe"),
    "rules": (lambda: gradscope.attach(net(), rules=["GS101"]), r"`rules=`: 'GS101' is no Rule"),
    "scaler": (lambda: gradscope.attach(net(), scaler=3), r"`scaler=3` must be an AMP gradient scaler"),
    "every": (lambda: gradscope.attach(net(), every=0), r"`every=0` must be a whole number of at least 1"),
    "modules": (lambda: gradscope.attach(net(), modules=["3"]), r"`modules='3'` matches no module of Sequential"),
    "scripted": (lambda: gradscope.attach(torch.jit.script(net())), r"torch lets nobody watch a scripted module; give"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("call", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_gets_one_sentence(call, message):
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_leaves_are_observed_and_what_is_named():
    model = nn.Sequential(net(), nn.Linear(2, 2))
    assert list(target_of(model, (), {}).modules) == ["0.0", "0.1", "0.2", "1"]
    named = target_of(model, ("0",), {"0.*": 1})
    assert set(named.modules) == {"0", "0.0", "0.1", "0.2", "1"}
    assert named.time_axes == {"0.0": 1, "0.1": 1, "0.2": 1}


def test_a_model_is_described_without_its_wrappers():
    model = net()
    model[0].requires_grad_(False)
    said = about(target_of(torch.compile(model, backend="eager"), (), {}))
    assert said["model"] == "Sequential"
    assert said["modules"] == {"": "Sequential", "0": "Linear", "1": "ReLU", "2": "Linear"}
    assert said["shapes"] == {"0.weight": [8, 4], "0.bias": [8], "2.weight": [2, 8], "2.bias": [2]}
    assert (said["parameters"], said["trainable"]) == (58, 18)


def test_an_optimizer_is_described_by_what_json_can_hold():
    said = about_optimizer(torch.optim.Adam((model := net()).parameters(), lr=0.5, betas=(0.1, 0.2)), model)
    assert (said["type"], said["lr"], said["betas"]) == ("Adam", 0.5, [0.1, 0.2])
    assert "params" not in said


def test_of_an_optimizer_every_group_is_told_and_whom_it_holds():
    model = net()
    stranger = torch.nn.Parameter(torch.zeros(2))
    held = [{"params": [model[0].weight, stranger]}, {"params": [model[2].bias], "lr": 1e-5}]
    first, second = about_optimizer(torch.optim.SGD(held, lr=0.5), model)["groups"]
    assert (first["lr"], first["parameters"]) == (0.5, ["0.weight"])
    assert (second["lr"], second["parameters"]) == (1e-5, ["2.bias"])


def test_the_optimizer_inside_of_a_wrapper_is_the_one_with_hooks():
    inner = torch.optim.SGD(net().parameters(), lr=0.1)

    class Wrapper:
        optimizer = inner

    assert bare_optimizer(Wrapper()) is inner
    assert bare_optimizer(inner) is inner


def test_lazy_modules_are_known_by_what_they_become() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        assert (scope.trace.meta["parameters"], scope.trace.meta["shapes"]) == (0, {})
        model(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
    meta = scope.trace.meta
    assert meta["modules"] == {"": "Sequential", "0": "Linear", "1": "BatchNorm1d"}
    assert (meta["parameters"], meta["shapes"]["0.weight"]) == (24, [3, 5])  # type: ignore[index, call-overload]
    assert scope.trace.series("0.weight", "weight_grad", "numel") == [15]

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.probes.rectifiers import RECTIFYING, rectifies

X, ZEROS = torch.linspace(-1, 1, 5), torch.zeros(5)
SAME = {
    "clamp": lambda x: x.clamp(0),
    "clamp, keyword": lambda x: torch.clamp(x, min=0.0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clip": lambda x: x.clip(min=0, max=None),
    "clamp, a tensor": lambda x: x.clamp(min=torch.tensor(0.0)),
    "maximum": lambda x: torch.maximum(x, ZEROS),
    "maximum, the other way": lambda x: torch.maximum(ZEROS, x),
    "maximum, keywords": lambda x: torch.maximum(input=x, other=ZEROS),
    "max of two": lambda x: x.max(torch.tensor(0.0)),
}
OTHERS = {
    "clamp at both ends": lambda x: x.clamp(0, 1),
    "clamp above": lambda x: x.clamp(max=0),
    "clamp elsewhere": lambda x: x.clamp(min=1e-6),
    "maximum over a dimension": lambda x: torch.max(x[None], 0)[0],
    "maximum of all": lambda x: x.max() + x,
    "maximum with what learns": lambda x: torch.maximum(x, torch.zeros(5, requires_grad=True)),
    "maximum with ones": lambda x: torch.maximum(x, torch.ones(5)),
}


class Called(nn.Module):
    """A layer and a function of what it returns."""

    def __init__(self, function) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(5, 5), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def types_seen(function) -> set[str]:
    model = Called(function)
    with gradscope.attach(model) as scope:
        model(torch.randn(4, 5)).sum().backward()
        scope.step()
    return {site.module_type for site in scope.trace.sites if "#" in site.module}


@pytest.mark.parametrize("function", SAME.values(), ids=SAME)
def test_a_relu_by_another_name_is_one(function):
    if not isinstance(function(X), Tensor) or torch.equal(function(X), X.relu()):
        assert types_seen(function) == {"ReLU"}
    else:
        pytest.fail("the row is no ReLU")


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_what_is_none_is_not_taken_for_one(function):
    assert types_seen(function) == set()


def test_every_function_is_told_by_its_arguments():
    assert set(RECTIFYING.values()) == {"clamp", "maximum"}
    assert rectifies("clamp", (X,), {"min": 0})
    assert not rectifies("clamp", (X,), {})
    assert not rectifies("maximum", (X, 0), {})

import pytest
import torch
from builders import trace_of
from torch import nn

import gradscope
from gradscope.rules.sixteen_bits import LARGEST, SMALLEST, dtype_of, holds_half, is_half, spacing


def test_the_numbers_are_those_of_torch():
    assert torch.finfo(torch.float16).max == LARGEST
    assert torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps == SMALLEST
    for name in ("float16", "bfloat16"):
        assert spacing(name) == torch.finfo(getattr(torch, name)).eps
    assert spacing("float32") is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_autocast_computes_in_is_noted_and_what_stays_float32_is_not(dtype):
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2))
    scope = gradscope.attach(model)
    with torch.autocast("cpu", dtype=dtype):
        out = model(torch.tensor([1, 2]))
    out.float().sum().backward()
    scope.detach()
    name = str(dtype).removeprefix("torch.")
    assert scope.trace.meta["dtypes"] == {"1": name}
    assert dtype_of(scope.trace, "1") == name
    assert is_half(scope.trace, "1") is holds_half(scope.trace) is (dtype is torch.float16)
    assert dtype_of(scope.trace, "0") == ""


def test_what_parameters_are_kept_in_is_noted():
    model = nn.Linear(3, 2).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        model(torch.randn(2, 3).bfloat16()).sum().backward()
        optimizer.step()
    assert scope.trace.meta["dtypes"] == {"": "bfloat16", "weight": "bfloat16", "bias": "bfloat16"}


def test_a_trace_that_says_nothing_holds_none():
    assert not holds_half(trace_of(output_rms=[1.0]))

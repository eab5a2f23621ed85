import copy

import numpy as np
import pytest
import torch
from builders import trace_of
from torch import nn

import gradscope
from gradscope.probes import Parameters
from gradscope.rules.rounded_updates import divided_by_nothing, kept_in_sixteen_bits, rounded


def trained(dtype, make, *, steps=6):
    """A recording, and for each step the share of w's elements with a gradient that did not move."""
    torch.manual_seed(0)
    model = nn.Linear(40, 20).to(dtype)
    optimizer = make(model.parameters())
    scope = gradscope.attach(model, optimizer=optimizer, probes=[Parameters()])
    lost = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(torch.randn(16, 40).to(dtype)).float() - 1).square().mean()
        loss.backward()
        scope.record_loss(loss)
        graded, before = model.weight.grad != 0, copy.deepcopy(model.weight.data)
        optimizer.step()
        lost.append(float((model.weight.data == before)[graded].float().mean()))
    scope.detach()
    return scope.trace, lost


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lr", [1e-4, 3e-3, 1e-1])
def test_the_share_is_that_of_the_elements_that_do_not_move(dtype, lr):
    trace, lost = trained(dtype, lambda p: torch.optim.SGD(p, lr=lr))
    weight = next(one for one in rounded(trace, kept_in_sixteen_bits(trace), 3) if one.parameter.name == "weight")
    assert weight.share == pytest.approx(np.median(lost), abs=0.01)


def test_half_a_spacing_is_what_an_update_has_to_exceed():
    trace, _ = trained(torch.bfloat16, lambda p: torch.optim.SGD(p, lr=1e-3))
    weight = next(one for one in rounded(trace, kept_in_sixteen_bits(trace), 3) if one.parameter.name == "weight")
    at = torch.tensor(float(trace.series("", "weight", "rms", name="weight")[0])).bfloat16()
    neighbour = at + 1.01 * weight.half_spacing
    assert neighbour.bfloat16() != at
    assert (at.float() + 0.49 * weight.half_spacing).bfloat16() == at


def test_weights_in_float32_are_none_of_its_business():
    trace, _ = trained(torch.float32, lambda p: torch.optim.SGD(p, lr=1e-3))
    assert kept_in_sixteen_bits(trace) == []


def test_an_eps_below_float16_divides_by_nothing():
    adam = trained(torch.float16, lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-8))[0]
    assert divided_by_nothing(adam, kept_in_sixteen_bits(adam)) is not None
    larger = trained(torch.float16, lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-4))[0]
    assert divided_by_nothing(larger, kept_in_sixteen_bits(larger)) is None


def test_what_has_no_gradient_at_all_is_not_known():
    half = {"dtypes": {"0.weight": "bfloat16"}}
    still = trace_of(
        meta=half,
        loss=1.0,
        weight_rms=[1.0],
        weight_grad_zero_fraction=[1.0],
        applied_grad_zero_fraction=[1.0],
        weight_update_zero_fraction=[1.0],
    )
    assert rounded(still, kept_in_sixteen_bits(still), 3) == []


def test_the_first_site_of_a_trace_counts_like_any_other():
    still = trace_of(
        steps=4,
        weight_update_zero_fraction=[0.9],
        weight_grad_zero_fraction=[0.0],
        weight_rms=[1.0],
        meta={"dtypes": {"0.weight": "bfloat16"}},
    )
    (weight,) = rounded(still, kept_in_sixteen_bits(still), 3)
    assert weight.parameter.update == 0
    assert weight.share == pytest.approx(0.9)

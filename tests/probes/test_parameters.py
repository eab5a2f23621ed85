"""Weights, raw and applied gradients and updates, in the loops where they are easily confused."""

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.probes import Parameters
from gradscope.probes.base import rarely


def test_frozen_parameters_have_a_weight_and_nothing_else():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for _ in range(2):
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
    quantities = {site.quantity.value for site in scope.trace.sites if site.module == "0" and site.name}
    assert quantities == {"weight"}
    assert np.isfinite(scope.trace.series("0", "weight", "rms")).all()


def test_a_parameter_that_no_optimizer_holds_is_never_updated():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    trace = scope.trace
    assert trace.columns("weight_grad", "0")
    assert not trace.columns("weight_update", "0")
    assert not trace.columns("applied_grad", "0")
    stepped = np.hypot(*(trace.series("1", "applied_grad", "l2_norm", name=n)[0] for n in ("weight", "bias")))
    for name in ("raw", "applied"):  # over the same parameters, or they could not be compared
        assert trace.series("", "total_norm", "l2_norm", name=name)[0] == pytest.approx(stepped, rel=1e-6)


def test_a_trainable_parameter_without_gradient_is_never_observed():
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.Linear(3, 1)})
    scope = gradscope.attach(model)
    model["used"](torch.randn(2, 3)).sum().backward()
    assert np.isnan(scope.trace.series("unused", "weight_grad", "numel")).all()


def test_tied_weights_are_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    x = torch.randn(2, 4)
    scope = gradscope.attach(model)
    model(x).sum().backward()
    sites = [site for site in scope.trace.sites if site.quantity.value == "weight_grad"]
    assert [site.module for site in sites] == ["0"]
    assert scope.trace.series("0", "weight_grad", "l2_norm")[0] == pytest.approx(float(model[0].weight.grad.norm()))


def test_equal_rows_are_looked_for_at_first_and_then_less_and_less():
    assert [n for n in range(70) if rarely(n)] == [0, 8, 16, 32, 64]
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer, probes=[Parameters()])
    for _ in range(9):
        model.zero_grad()
        model(torch.randn(2, 3)).square().sum().backward()
        optimizer.step()
    fraction = scope.trace.series("0", "weight", "symmetric_fraction", name="weight")
    assert fraction[0] == 1
    assert list(np.flatnonzero(np.isfinite(fraction))) == [0, 4, 8]


def test_a_gradient_turned_around_is_seen():
    model = nn.Linear(100, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    model(torch.randn(2, 100)).square().sum().backward()
    model.weight.grad.neg_()  # the norm is the same, the mean is not
    optimizer.step()
    raw, applied = (scope.trace.series("", q, "mean", name="weight")[0] for q in ("weight_grad", "applied_grad"))
    assert applied == pytest.approx(-raw)


def test_a_parameter_whose_data_was_replaced_is_followed():
    model = nn.Linear(100, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scope = gradscope.attach(model, optimizer=optimizer)
    model.weight.data = torch.zeros(100, 100)  # as `model.to(device)` and `load_state_dict(assign=True)` do
    model(torch.randn(2, 100)).square().sum().backward()
    optimizer.step()
    weight, update = (scope.trace.series("", q, "l2_norm", name="weight")[0] for q in ("weight", "weight_update"))
    assert weight == 0
    assert update == pytest.approx(float(model.weight.detach().norm()), rel=1e-5)

"""A scaler that nobody has named is found where it acts."""

import gc

import pytest
import torch
from torch import nn

import gradscope
from gradscope.loss_scale import first_scale, only_scaler, scaler_that_steps, times_set


@pytest.fixture(autouse=True)
def _no_scaler_of_other_tests():
    gc.collect()


def scaler(**options) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **options)


def trained(model, optimizer, step, *, overflows=(), steps=4, micro_batches=1):
    scope = gradscope.attach(model, optimizer=optimizer)
    norms = []
    for number in range(steps):
        for _ in range(micro_batches):
            loss = model(torch.full((3, 4), 0.5)).square().mean()
            step.scale(loss * (float("inf") if number in overflows else 1)).backward()
        step.unscale_(optimizer)
        norms.append(model.weight.grad.norm().item())
        step.step(optimizer)
        step.update()
        optimizer.zero_grad()
    scope.detach()
    return scope.trace, norms


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("overflows", [(), (0,), (0, 1), (2,)])
def test_gradients_are_unscaled_and_skipped_steps_told(overflows, micro_batches):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trace, norms = trained(
        model, optimizer, scaler(init_scale=1024.0), overflows=overflows, micro_batches=micro_batches
    )
    assert trace.steps.tolist() == [0, 1, 2, 3]
    assert [(event.step, event.kind) for event in trace.events] == [(step, "step-skipped") for step in overflows]
    for step, found in enumerate(trace.series("", "weight_grad", "l2_norm", name="weight")):
        if step not in overflows:
            assert found == pytest.approx(norms[step], rel=1e-5)


def test_a_scaler_of_another_model_is_not_taken():
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer, beside = (torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, other))
    strange = scaler(init_scale=64.0)
    scope = gradscope.attach(model, optimizer=optimizer)
    for _ in range(2):
        strange.scale(other(torch.ones(1, 4)).sum()).backward()
        strange.step(beside)
        strange.update()
        for _ in range(2):
            model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1]
    assert trace.per_step["loss_scale"].tolist() == [1.0, 1.0]


def test_of_several_scalers_none_is_guessed():
    one = scaler(init_scale=8.0)
    assert only_scaler() is one
    assert first_scale(one) == 8.0
    second = scaler()
    assert only_scaler() is None
    del second
    off = scaler(enabled=False)
    assert only_scaler() is one
    assert not off.is_enabled()


def test_nobody_steps_here():
    assert scaler_that_steps() is None


def test_a_micro_batch_does_not_wait_for_the_scale(monkeypatch):
    asked = []
    read = torch.amp.GradScaler.get_scale
    monkeypatch.setattr(torch.amp.GradScaler, "get_scale", lambda self: asked.append(1) or read(self))
    counts = []
    for micro_batches in (1, 5):
        model, asked[:] = nn.Linear(4, 2), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trained(model, optimizer, scaler(init_scale=1024.0), micro_batches=micro_batches)
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_how_often_a_scale_was_set_is_told_of_torchs_scaler_alone():
    one = scaler(init_scale=8.0)
    assert times_set(one) is None  # there is none before the first loss
    one.scale(torch.ones(()))
    before = times_set(one)
    one.update(4.0)
    assert times_set(one) > before
    assert times_set(object()) is None


def test_a_scaler_that_is_switched_off_scales_nothing():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    off = scaler(enabled=False)
    assert times_set(off) is None
    for named in (None, off):
        scope = gradscope.attach(model, optimizer=optimizer, scaler=named)
        for _ in range(2):
            for _ in range(2):
                off.scale(model(torch.ones(3, 4)).square().mean()).backward()
            off.step(optimizer)
            off.update()
        scope.detach()
        assert scope.trace.per_step["loss_scale"].tolist() == [1.0, 1.0]
        assert scope.trace.events == ()

"""Two lines around an unchanged loop: what is recorded when, and that watching does no harm."""

import copy
import gc
import io
import logging
import weakref
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import NETWORKS, targets
from torch import nn
from torch.nn import functional as F

import gradscope
from gradscope.errors import UsageError
from gradscope.probes import PROBES, Activations, Gradients, Parameters, Recurrent
from gradscope.probes.base import Probe
from gradscope.records import Quantity
from gradscope.schedule import LogSpaced


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def loss_of(model: nn.Module, step: int = 0) -> torch.Tensor:
    return model(torch.randn(6, 4, generator=torch.Generator().manual_seed(step))).square().sum()


def hooks_of(model: nn.Module, *optimizers: torch.optim.Optimizer) -> int:
    on_modules = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()
    )
    on_parameters = sum(
        len(p._post_accumulate_grad_hooks or ()) + len(p._backward_hooks or ()) for p in model.parameters()
    )
    on_optimizers = sum(len(o._optimizer_step_pre_hooks) + len(o._optimizer_step_post_hooks) for o in optimizers)
    return on_modules + on_parameters + on_optimizers


# ------------------------------------------------------------------------------------------------ no harm


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("every", [1, 3])
def test_training_is_bit_identical(kind, every):
    build, batch = NETWORKS[kind]

    def train(watched: bool) -> tuple[list[float], list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(0)
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scope = gradscope.attach(model, optimizer=optimizer, every=every) if watched else None
        losses = []
        for step in range(20):
            loss = F.cross_entropy(model(batch(step)), targets(step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
            if scope:
                scope.record_loss(loss)
            with torch.no_grad():
                model(batch(step))
        if scope:
            assert len(scope.trace.steps) == len(range(0, 20, every))
        return losses, [*model.state_dict().values()], torch.get_rng_state()

    bare, watched = train(False), train(True)
    assert bare[0] == watched[0]
    assert all(torch.equal(a, b) for a, b in zip(bare[1], watched[1], strict=True))
    assert torch.equal(bare[2], watched[2])


def test_detach_leaves_no_hook():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    assert hooks_of(model, optimizer) > 0
    loss_of(model).backward()
    optimizer.step()
    scope.detach()
    scope.detach()
    assert hooks_of(model, optimizer) == 0
    assert len(scope.trace.steps) == 1


def test_hundreds_of_attachments_leave_nothing_behind():
    model = net()
    scopes = []
    for _ in range(200):
        with gradscope.attach(model) as scope:
            loss_of(model).backward()
        scopes.append(weakref.ref(scope))
    del scope
    gc.collect()
    assert hooks_of(model) == 0
    assert not any(ref() for ref in scopes)


def test_no_activation_outlives_its_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alive = []
    model[1].register_forward_hook(lambda m, args, y: alive.append(weakref.ref(y)))
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(3):
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        del loss
        gc.collect()
        assert not any(ref() is not None for ref in alive), "the training let go of it, so must we"
    assert scope.trace.steps.tolist() == [0, 1, 2]


def test_a_copy_and_a_saved_model_record_nothing():
    model = net()
    scope = gradscope.attach(model)
    loss_of(model).backward()
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for copied in (twin, loaded):
        loss_of(copied).backward()
        assert torch.equal(copied[0].weight, model[0].weight)
    scope.detach()
    assert len(scope.trace.steps) == 1
    assert scope.trace.by_time("0", "output", "numel").shape == (1, 1)


def test_an_exception_in_the_loop_goes_through_and_the_step_is_kept():
    model = net()
    scope = gradscope.attach(model)

    def train() -> None:
        with scope:
            loss_of(model, 0).backward()
            loss_of(model, 1)
            1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        train()
    assert hooks_of(model) == 0
    assert scope.trace.steps.tolist() == [0, 1]
    assert np.isfinite(scope.trace.series("0", "output", "rms")).all()
    assert "stopped in step 1: ZeroDivisionError" in scope.trace.events[-1].message


class Raising(Probe):
    """A third party's probe whose hook fails."""

    name = "raising"
    quantities = frozenset()

    def attach(self, target, recorder):
        from contextlib import ExitStack

        from gradscope.probes.base import Hook

        class Bad(Hook):
            def __call__(self, module, args, output):
                try:
                    raise ValueError("cannot see")
                except ValueError as error:
                    self.recorder.failed("raising", error)

        stack = ExitStack()
        stack.callback(target.model.register_forward_hook(Bad("raising", recorder)).remove)
        return stack


def test_a_broken_probe_is_reported_once_and_detached(caplog):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer, probes=[Parameters(), Raising()])
    with caplog.at_level(logging.WARNING, "gradscope"):
        for step in range(4):
            loss_of(model, step).backward()
            optimizer.step()
    assert len(caplog.records) == 1
    assert len(model._forward_hooks) == 0, "its hook is gone after the step in which it failed"
    assert [event.kind for event in scope.trace.events] == ["probe-failed"]
    assert "'raising' failed in step 0, it was detached: ValueError: cannot see" in scope.trace.events[0].message
    assert len(scope.trace.steps) == 4


def test_a_hook_of_ours_never_raises_into_the_training(monkeypatch, caplog):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)

    def burst(*args: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("gradscope.recorder.joinable", burst)
    for step in range(3):
        loss_of(model, step).backward()
        optimizer.step()
    kinds = {event.kind for event in scope.trace.events}
    assert kinds == {"probe-failed"}
    assert model[0].weight.grad is not None


# ------------------------------------------------------------------------------------------------ steps


def test_a_step_is_an_optimizer_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(6):  # two micro-batches each
        loss_of(model, step).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert scope.trace.steps.tolist() == [0, 1, 2]
    assert scope.trace.by_time("0", "output", "numel").shape == (3, 2)


def test_accumulated_gradients_are_those_of_the_last_backward():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scope = gradscope.attach(model, optimizer=optimizer)
    loss_of(model, 0).backward()
    loss_of(model, 1).backward()
    optimizer.step()
    model.zero_grad()
    (loss_of(model, 0) + loss_of(model, 1)).backward()
    wanted = float(model[0].weight.grad.norm())
    assert scope.trace.series("0", "weight_grad", "l2_norm")[0] == pytest.approx(wanted, rel=1e-5)


def test_two_optimizers_in_a_row_make_one_step():
    model = net()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2]))
    scope = gradscope.attach(model, optimizer=[first, second])
    for step in range(3):
        loss_of(model, step).backward()
        first.step()
        second.step()
        model.zero_grad()
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1, 2]
    assert (trace.series("0", "weight_update", "rms") > 0).all()
    assert (trace.series("2", "weight_update", "rms") > 0).all()
    assert len(trace.meta["optimizers"]) == 2


def test_alternating_optimizers_make_a_step_each():
    generator, critic = nn.Linear(3, 3), nn.Linear(3, 1)
    model = nn.ModuleDict({"generator": generator, "critic": critic})
    g, d = torch.optim.SGD(generator.parameters(), lr=0.1), torch.optim.SGD(critic.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=[g, d])
    for _ in range(2):
        fake = generator(torch.randn(5, 3))
        critic(fake.detach()).sum().backward()
        d.step()
        critic(fake).sum().backward()
        g.step()
        model.zero_grad()
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1, 2, 3]
    moved = trace.statistics["numel"][:, trace.column("generator.weight", "weight_update")]
    assert np.isnan(moved).tolist() == [True, False, True, False], "not observed where its optimizer did not step"
    assert trace.series("generator", "output_grad", "rms")[1] > 0, "the graph of the step before"


def test_without_an_optimizer_a_forward_after_a_backward_is_a_step():
    model = net()
    scope = gradscope.attach(model)
    for step in range(3):
        model.zero_grad()
        loss_of(model, step).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.01 * p.grad
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1, 2]
    update, grad = (trace.series("0", q, "l2_norm") for q in ("weight_update", "weight_grad"))
    np.testing.assert_allclose(update, 0.01 * grad, rtol=1e-4)
    assert not trace.columns("applied_grad")


def test_the_user_can_end_the_steps():
    model = net()
    scope = gradscope.attach(model)
    for step in range(3):
        loss = loss_of(model, 2 * step) + loss_of(model, 2 * step + 1)
        loss.backward()
        scope.step(loss)
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1, 2]
    assert np.isfinite(trace.per_step["loss"]).all()
    assert trace.by_time("0", "output", "rms").shape == (3, 2)


def test_a_closure_that_runs_often_is_one_step():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    scope = gradscope.attach(model, optimizer=optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    before = model[0].weight.detach().clone()
    optimizer.step(closure)
    after = model[0].weight.detach().clone()
    optimizer.step(closure)
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1]
    assert trace.series("0", "weight", "l2_norm")[0] == pytest.approx(float(before.norm()), rel=1e-5)
    assert trace.series("0", "weight_update", "l2_norm")[0] == pytest.approx(float((after - before).norm()), rel=1e-5)


def test_evaluation_is_not_training():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(2):
        loss = loss_of(model, step)
        with torch.no_grad():
            loss_of(model, 100)
        with torch.inference_mode():
            loss_of(model, 101)
        loss_of(model, 102)  # a forward with gradients that no backward follows
        loss.backward()
        optimizer.step()
    rms = scope.trace.by_time("0", "output", "rms")
    assert rms.shape == (2, 1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    assert scope.trace.series("", "input", "rms")[1] == pytest.approx(float(x.square().mean().sqrt()))


def test_only_every_nth_step_is_recorded():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer, every=4)
    for step in range(10):
        loss_of(model, step).backward()
        optimizer.step()
    assert scope.trace.steps.tolist() == [0, 4, 8]
    assert scope.trace.meta["every"] == 4


def test_a_schedule_picks_the_steps():
    model = net()
    scope = gradscope.attach(model, every=LogSpaced(dense=2, per_decade=3))
    for step in range(12):
        loss_of(model, step).backward()
    assert scope.trace.steps.tolist() == [0, 1, 3, 5, 10]


def test_a_loss_recorded_after_the_optimizer_belongs_to_its_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scope = gradscope.attach(model, optimizer=optimizer)
    losses = []
    for step in range(3):
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        scope.record_loss(loss)
        losses.append(loss.item())
    assert scope.trace.per_step["loss"].tolist() == pytest.approx(losses)
    assert scope.trace.series("", "loss", "mean").tolist() == pytest.approx(losses)


def test_several_losses_of_a_step_are_averaged():
    model = net()
    scope = gradscope.attach(model)
    loss_of(model).backward()
    scope.record_loss(1.0)
    scope.record_loss(torch.tensor(3.0))
    assert scope.trace.per_step["loss"].tolist() == [2.0]


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


def test_gradients_of_a_scaled_loss_are_recorded_unscaled():
    model, scaler = net(), Scaler(1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scope = gradscope.attach(model, optimizer=optimizer, scaler=scaler)
    (loss_of(model) * scaler.scale).backward()
    for p in model.parameters():
        p.grad.div_(scaler.scale)
    wanted = float(model[0].weight.grad.norm())
    optimizer.step()
    trace = scope.trace
    for quantity in ("weight_grad", "applied_grad"):
        assert trace.series("0", quantity, "l2_norm")[0] == pytest.approx(wanted, rel=1e-5)
    h = model(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    (grad,) = torch.autograd.grad(h.square().sum(), h)
    assert trace.series("2", "output_grad", "l2_norm")[0] == pytest.approx(float(grad.norm()), rel=1e-5)
    assert trace.per_step["loss_scale"].tolist() == [1024.0]


@pytest.mark.parametrize("clip", [
    lambda p: torch.nn.utils.clip_grad_norm_(p, 1e-3),
    lambda p: torch.nn.utils.clip_grad_value_(p, 1e-4),
    lambda p: [q.grad.data.clamp_(-1e-4, 1e-4) for q in p],
    lambda p: [setattr(q, "grad", 0.5 * q.grad) for q in p],
], ids=["norm", "value", "behind autograd's back", "replaced"])  # fmt: skip
def test_a_clip_shows_as_the_difference_of_raw_and_applied(clip):
    model = nn.Sequential(nn.Linear(80, 90), nn.ReLU(), nn.Linear(90, 2))  # one large weight, the others small
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    model(torch.randn(6, 80)).square().sum().backward()
    raw = {n: float(p.grad.norm()) for n, p in model.named_parameters()}
    clip(list(model.parameters()))
    applied = {n: float(p.grad.norm()) for n, p in model.named_parameters()}
    optimizer.step()
    trace = scope.trace
    assert raw["0.weight"] != pytest.approx(applied["0.weight"], rel=0.1)
    for name in raw:
        assert trace.series(name, "weight_grad", "l2_norm")[0] == pytest.approx(raw[name], rel=1e-5)
        assert trace.series(name, "applied_grad", "l2_norm")[0] == pytest.approx(applied[name], rel=1e-5)


def test_named_containers_are_observed_too():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    scope = gradscope.attach(model, modules=["0", "1*"])
    loss_of(model).backward()
    trace = scope.trace
    sites, rms = trace.by_depth("output", "rms")
    assert [site.module for site in sites] == ["0.0", "0.1", "0", "1"]
    assert rms[0, 1] == rms[0, 2]
    assert trace.series("0", "output_grad", "rms") == trace.series("0.1", "output_grad", "rms")


def test_the_trace_can_be_read_at_any_time_and_goes_on():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    assert len(scope.trace.steps) == 0
    for step in range(3):
        loss_of(model, step).backward()
        optimizer.step()
        assert len(scope.trace.steps) == step + 1
    diagnosis = scope.diagnose()
    assert diagnosis.steps == 3
    scope.detach()
    assert scope.diagnose().steps == 3


def test_a_streamed_trace_is_the_one_in_memory(tmp_path):
    def train(**options):
        torch.manual_seed(0)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gradscope.attach(model, optimizer=optimizer, **options) as scope:
            for step in range(20):
                loss_of(model, step).backward()
                optimizer.step()
        return scope.trace

    memory, disk = train(), train(trace=tmp_path / "run.h5")
    read = gradscope.read_trace(tmp_path / "run.h5")
    for trace in (disk, read):
        assert trace.sites == memory.sites
        assert trace.steps.tolist() == memory.steps.tolist()
        for stat, values in memory.statistics.items():
            np.testing.assert_array_equal(trace.statistics[stat], values)


# ------------------------------------------------------------------------------------------------ bad input


def test_a_second_attach_is_an_error_and_the_first_goes_on():
    model = net()
    scope = gradscope.attach(model)
    with pytest.raises(UsageError, match="already attached; call `detach"):
        gradscope.attach(model)
    loss_of(model).backward()
    assert len(scope.trace.steps) == 1
    scope.detach()
    gradscope.attach(model).detach()


def test_an_unwritable_trace_is_an_error_before_the_training(tmp_path):
    model = net()
    with pytest.raises(gradscope.GradscopeError, match=r"no-such-folder"):
        gradscope.attach(model, trace=tmp_path / "no-such-folder" / "run.h5")
    assert hooks_of(model) == 0
    gradscope.attach(model).detach()


def test_a_disk_that_fails_ends_the_recording_and_not_the_training(tmp_path, monkeypatch):
    model = net()
    scope = gradscope.attach(model, trace=tmp_path / "run.h5")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    loss_of(model, 0).backward()
    scope.step()
    monkeypatch.setattr("gradscope.storage.TraceWriter.append", full)
    for step in range(3):
        loss_of(model, step).backward()
        scope.step()
    assert scope.trace.steps.tolist() == [0]
    assert "No space left on device" in scope.trace.events[0].message
    scope.detach()


def test_the_built_in_probes_come_through_the_entry_point():
    assert set(PROBES) >= {Activations, Gradients, Parameters, Recurrent}
    model = net()
    scope = gradscope.attach(model, probes=[Activations()])
    loss_of(model).backward()
    assert {site.quantity.value for site in scope.trace.sites} == {"input", "output"}


# ------------------------------------------------------------------------------------------------ found by attack


def test_a_model_that_is_never_detached_can_be_forgotten():
    def train() -> weakref.ref[nn.Module]:
        model = net()
        optimizer = torch.optim.Adam(model.parameters())
        gradscope.attach(model, optimizer=optimizer)
        for step in range(2):
            loss_of(model, step).backward()
            optimizer.step()
        return weakref.ref(model)

    models = [train() for _ in range(3)]
    gc.collect()
    assert not any(model() for model in models)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_gradient_that_trains_nothing_is_not_the_trainings(when):
    """Saliency maps, adversarial examples: `torch.autograd.grad` beside the step."""

    def record(aside: bool) -> gradscope.Trace:
        torch.manual_seed(0)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scope = gradscope.attach(model, optimizer=optimizer)
        x = torch.randn(6, 4, requires_grad=True)
        if aside and when == "before":
            torch.autograd.grad(1000 * model(x).sum(), x)
        loss = loss_of(model)
        loss.backward(retain_graph=True)
        if aside and when == "after":
            torch.autograd.grad(1000 * model(x).sum(), x)
        optimizer.step()
        return scope.trace

    plain, beside = record(False), record(True)
    for module, quantity in (("0", "output"), ("0", "output_grad"), ("2", "input_grad"), ("0", "weight_grad")):
        assert beside.series(module, quantity, "l2_norm") == plain.series(module, quantity, "l2_norm")
        assert beside.series(module, quantity, "numel") == plain.series(module, quantity, "numel")


def test_several_backwards_through_one_forward_are_told():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for _ in range(2):
        y = model(torch.randn(6, 4))
        y[:, 0].sum().backward(retain_graph=True)
        y[:, 1].sum().backward()
        optimizer.step()
    assert [event.kind for event in scope.trace.events] == ["several-backwards"]
    assert any("several backward passes" in item.reason for item in scope.diagnose().not_judged)


def test_parameters_given_to_the_optimizer_later_are_followed():
    model = net()
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(4):
        if step == 2:
            model[2].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[2].parameters())})
        model.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    update = scope.trace.series("2.weight", "weight_update", "l2_norm")
    grad = scope.trace.series("2.weight", "applied_grad", "l2_norm")
    assert np.isnan(update[:2]).all()
    np.testing.assert_allclose(update[2:], 0.1 * grad[2:], rtol=1e-4)


def test_transforms_of_functions_are_not_training():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(3):
        loss = loss_of(model, step)
        torch.func.vmap(model)(torch.randn(3, 2, 4))
        torch.func.jacrev(model)(torch.randn(4))
        loss.backward()
        optimizer.step()
    assert scope.trace.events == ()
    assert scope.trace.by_time("0", "output", "numel").tolist() == [[48.0]] * 3


def test_a_step_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("gradscope.steps._MOST_PASSES", 20)
    model = net()
    scope = gradscope.attach(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(50):
        loss_of(model, step).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert not scope._recorder.holds_something
    (event,) = scope.trace.events
    assert "20 forward passes ran before an attached optimizer has stepped" in event.message


def test_a_detached_scope_keeps_what_was_recorded_and_not_the_model():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(3):
        loss_of(model, step).backward()
        optimizer.step()
    scope.detach()
    gone = [weakref.ref(thing) for thing in (model, optimizer, *model.modules(), *model.parameters())]
    del model, optimizer
    gc.collect()
    assert [ref() for ref in gone if ref() is not None] == []
    assert scope.trace.steps.tolist() == [0, 1, 2]
    assert scope.trace.meta["optimizers"][0]["type"] == "SGD"
    assert scope.diagnose().steps == 3
    with pytest.raises(UsageError, match="detached; attach to the model anew"):
        scope.watch(torch.optim.SGD(net().parameters(), lr=0.1))


def test_a_failed_attach_leaves_nothing(monkeypatch):
    model = net()

    def refuse(*args: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Parameters, "attach", refuse)
    with pytest.raises(RuntimeError):
        gradscope.attach(model)
    assert hooks_of(model) == 0
    monkeypatch.undo()
    gradscope.attach(model).detach()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*TorchScript.*")
def test_a_scripted_part_is_left_alone():
    model = nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 2))
    scope = gradscope.attach(model)
    loss_of(model).backward()
    assert [site.module for site in scope.trace.by_depth("output", "rms")[0]] == ["1"]
    scope.detach()


def test_nothing_recorded_is_not_healthy():
    model = net()
    diagnosis = gradscope.attach(model).diagnose()
    assert diagnosis.steps == 0
    assert not diagnosis.ok


# ------------------------------------------------------------------------------------------------ for integrations


class Follower:
    def __init__(self, fails_at: int | None = None) -> None:
        self.told: list[int | str] = []
        self.fails_at = fails_at

    def recorded(self, record, sites) -> None:
        if record.step == self.fails_at:
            raise OSError("the server is gone")
        assert len(record.values) == len(sites)
        self.told.append(record.step)

    def ended(self) -> None:
        self.told.append("end")


def test_who_follows_is_told_of_each_recorded_step_and_of_the_end() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    follower = Follower()
    with gradscope.attach(model, optimizer=optimizer, every=2, first_step=10) as scope:
        scope.follow(follower)
        for step in range(5):
            loss_of(model, step).backward()
            optimizer.step()
        assert follower.told == [10, 12], "step 14 is closed when the next one begins"
    assert follower.told == [10, 12, 14, "end"]
    assert scope.trace.steps.tolist() == [10, 12, 14]


def test_a_follower_that_raises_is_told_no_more(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    broken, sound = Follower(fails_at=1), Follower()
    with gradscope.attach(model) as scope:
        scope.follow(broken)
        scope.follow(sound)
        for step in range(3):
            loss_of(model, step).backward()
            scope.step()
    assert broken.told == [0]
    assert sound.told == [0, 1, 2, "end"]
    assert "is told no more: OSError: the server is gone" in caplog.text


def test_nothing_that_runs_while_paused_is_recorded() -> None:
    traces = []
    for evaluates in (False, True):
        torch.manual_seed(0)
        model = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 2)])  # its own forward never runs
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        with gradscope.attach(model, optimizer=optimizer) as scope:
            for _ in range(3):
                loss = model[1](model[0](torch.ones(6, 4))).square().mean()
                if evaluates:
                    with scope.paused():
                        x = torch.ones(7, 4, requires_grad=True)
                        torch.autograd.grad(model[1](model[0](x)).sum(), x)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if evaluates:
                    with scope.paused():
                        model[1](model[0](torch.ones(9, 4))).sum().backward()
                        optimizer.zero_grad()
        traces.append(scope.trace)
    plain, evaluated = traces
    assert plain.sites == evaluated.sites
    assert len(plain.times.step) == len(evaluated.times.step) == 0
    for stat, values in plain.statistics.items():
        np.testing.assert_array_equal(values, evaluated.statistics[stat])


@pytest.mark.parametrize("optimized", [False, True])
def test_an_evaluation_that_is_trained_upon_makes_no_step_while_paused(optimized: bool) -> None:
    model, scaler = nn.Linear(4, 2), Scaler(8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scope = gradscope.attach(model, optimizer=optimizer if optimized else None, scaler=scaler if optimized else None)

    def backward(size: float) -> None:
        (model(torch.full((3, 4), size)).sum()).backward()

    for step in range(4):
        backward(1.0)
        if optimized and step == 1:
            scaler.scale /= 2  # the step is skipped, and only the next forward will tell
        elif optimized:
            optimizer.step()
        with scope.paused():
            for _ in range(6):
                backward(1e6)
                if optimized:
                    optimizer.step()
    scope.detach()
    inputs = scope.trace.series("", "input", "abs_max")
    assert scope.trace.steps.tolist() == [0, 1, 2, 3]
    assert inputs.tolist() == [1.0] * 4
    kinds = [event.kind for event in scope.trace.events]
    assert kinds == ["step-skipped"] * optimized


def test_during_a_pause_the_step_before_it_is_there_and_the_pause_goes_on() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    for step in range(2):
        loss_of(model, step).backward()
        optimizer.step()
        with scope.paused(), scope.paused():
            assert scope.trace.steps.tolist() == list(range(step + 1))
            loss_of(model, step).backward()
            optimizer.step()
    loss_of(model, 2).backward()
    optimizer.step()
    with scope.paused():
        scope.detach()
    assert scope.trace.steps.tolist() == [0, 1, 2]


def test_an_attach_that_fails_gives_its_file_back(tmp_path: Path) -> None:
    class Broken(Probe):
        name = "broken"
        quantities = frozenset({Quantity.OUTPUT})

        def attach(self, target: object, recorder: object) -> ExitStack:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure:
        gradscope.attach(net(), probes=[Broken()], trace=tmp_path / "run.h5")
    assert failure.tb is not None  # as a notebook keeps it, and with it the scope
    gradscope.attach(net(), trace=tmp_path / "run.h5").detach()


def test_a_notebook_shows_what_is_recorded_so_far():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer)
    assert "no step has ended yet" in scope._repr_html_()
    for _ in range(3):
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
    assert "recording, so far:" in scope._repr_html_()
    assert "3 steps recorded" in scope._repr_html_()
    scope.detach()
    assert "detached; recorded:" in scope._repr_html_()

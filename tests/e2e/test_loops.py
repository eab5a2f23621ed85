"""The loops that people have: each is run bare and watched, and must come out the same to the last bit.

Each loop says how many steps gradscope has to count, and what a step holds is compared with the same training written
plainly.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gradscope


class Net(nn.Module):
    """Four layers, dropout, and an activation by a module; `segment` runs two of them."""

    def __init__(self, reentrant: bool | None = None):
        super().__init__()
        self.reentrant = reentrant
        self.stem, self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.act, self.drop, self.head = nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3)

    def segment(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.act(layer(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        for layer in (self.first, self.second):
            if self.reentrant is None:
                x = self.segment(layer, x)
            else:
                x = checkpoint(self.segment, layer, x, use_reentrant=self.reentrant)
        return self.head(x)


Loop = Callable[[nn.Module, Callable[..., gradscope.Scope | None]], list[float]]


def loss_of(model: nn.Module, batch: int = 8) -> torch.Tensor:
    x = torch.randn(batch, 6)
    return nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))


def moved_by(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    """`loss`, after a step downhill."""
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def plain(model, watch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer=optimizer)
    losses = []
    for _ in range(6):
        optimizer.zero_grad(set_to_none=False)
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def accumulation(model, watch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer=optimizer)
    losses = []
    for micro in range(24):
        loss = loss_of(model) / 4
        loss.backward()
        losses.append(loss.item())
        if micro % 4 == 3:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    return losses


def two_optimizers(model, watch):
    optimizers = [torch.optim.SGD(part, lr=0.1) for part in (model.stem.parameters(), model.head.parameters())]
    watch(model, optimizer=optimizers)
    losses = []
    for _ in range(6):
        loss = loss_of(model)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


def alternating(model, watch):
    """As a GAN does: each half has a forward, a backward and an optimizer of its own."""
    optimizers = [torch.optim.SGD(part, lr=0.1) for part in (model.stem.parameters(), model.head.parameters())]
    watch(model, optimizer=optimizers)
    losses = []
    for step in range(6):
        loss = loss_of(model)
        loss.backward()
        optimizers[step % 2].step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


def lbfgs(model, watch):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    watch(model, optimizer=optimizer)
    model.drop.eval()
    torch.manual_seed(7)
    x = torch.randn(8, 6)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(6)]


def closure_of_adam(model, watch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer=optimizer)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(6)]


def evaluation_between(model, watch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer=optimizer)
    losses = []
    for _ in range(6):
        moved_by(optimizer, loss_of(model))
        model.eval()
        with torch.no_grad():
            losses.append(loss_of(model, batch=50).item())
        losses.append(loss_of(model, batch=50).item())  # with a graph that nobody goes back through
        with torch.inference_mode():
            losses.append(loss_of(model, batch=3).item())
        model.train()
    return losses


def by_hand(model, watch):
    watch(model)
    losses = []
    for _ in range(6):
        loss = loss_of(model)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        losses.append(loss.item())
    return losses


def by_hand_in_micro_batches(model, watch):
    scope = watch(model)
    losses = []
    for _ in range(6):
        for _ in range(2):
            loss = loss_of(model)
            loss.backward()
            losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        model.zero_grad()
        if scope is not None:
            scope.step(loss)
    return losses


def autocast(model, watch):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer=optimizer)
    losses = []
    for _ in range(6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(moved_by(optimizer, loss_of(model)))
    return losses


def grad_scaler(model, watch):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    watch(model, optimizer=optimizer, scaler=scaler)
    losses = []
    for step in range(6):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(model)
        scaler.scale(loss * (float("inf") if step == 3 else 1)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def second_optimizer_later(model, watch):
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer=optimizer)
    for step in range(6):
        if step == 3:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        losses.append(moved_by(optimizer, loss_of(model)))
    return losses


def several_steps_of_one_forward(model, watch):
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    watch(model, optimizer=optimizer)
    x, losses = torch.randn(8, 6), []
    features = model.drop(model.act(model.stem(x))).detach()
    for _ in range(6):
        losses.append(moved_by(optimizer, model.head(features).square().mean()))
    return losses


def unfreezing(model, watch):
    model.stem.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer=optimizer)
    losses = []
    for step in range(6):
        if step == 3:
            model.stem.requires_grad_(True)
        losses.append(moved_by(optimizer, loss_of(model)))
    return losses


def exceptions_on_the_way(model, watch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer=optimizer)
    losses = []
    for _ in range(6):
        for error in (ValueError, KeyboardInterrupt):
            handle = model.second.register_forward_pre_hook(_raiser(error))
            with pytest.raises(error):
                loss_of(model)
            handle.remove()
        losses.append(moved_by(optimizer, loss_of(model)))
    return losses


def _raiser(error: type[BaseException]) -> Callable[..., None]:
    def raise_it(*args: object) -> None:
        raise error

    return raise_it


LOOPS: dict[str, tuple[Loop, int]] = {
    loop.__name__.replace("_", " "): (loop, steps)
    for loop, steps in (
        (plain, 6),
        (accumulation, 6),
        (two_optimizers, 6),
        (alternating, 6),
        (lbfgs, 6),
        (closure_of_adam, 6),
        (evaluation_between, 6),
        (by_hand, 6),
        (by_hand_in_micro_batches, 7),  # the first `Scope.step` is too late for the first micro-batch
        (autocast, 6),
        (grad_scaler, 6),
        (second_optimizer_later, 6),
        (several_steps_of_one_forward, 6),
        (unfreezing, 6),
        (exceptions_on_the_way, 6),
    )
}


def train(loop: Loop, *, watched: bool, reentrant: bool | None = None, **options):
    """Losses, parameters and the random state after `loop`, and its scope."""
    torch.manual_seed(0)
    model, scopes = Net(reentrant), []

    def watch(*args, **kwargs):
        if watched:
            scopes.append(gradscope.attach(*args, **kwargs, **options))
        return scopes[0] if watched else None

    losses = loop(model, watch)
    state = [p.detach().clone() for p in model.parameters()]
    return losses, state, torch.get_rng_state(), (scopes[0] if scopes else None), model


def hooks_of(model: nn.Module) -> int:
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    return modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("reentrant", [None, False, True], ids=["plain", "checkpoint", "reentrant"])
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.filterwarnings("ignore:.*None of the inputs have requires_grad.*")  # the frozen stem before a checkpoint
def test_a_loop_runs_as_without(name, reentrant, every):
    loop, steps = LOOPS[name]
    bare = train(loop, watched=False, reentrant=reentrant)
    losses, state, random, scope, model = train(loop, watched=True, reentrant=reentrant, every=every)
    assert losses == bare[0]
    assert all(torch.equal(a, b) for a, b in zip(state, bare[1], strict=True))
    assert torch.equal(random, bare[2])
    trace = scope.trace
    assert trace.steps.tolist() == list(range(0, steps, every))
    assert not [event for event in trace.events if event.kind == "probe-failed"]
    scope.diagnose()
    scope.detach()
    assert hooks_of(model) == 0


def frame_of(trace: gradscope.Trace):
    return trace.to_frame().set_index(["step", "time", "module", "quantity", "name"]).sort_index()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("loop", [plain, accumulation, by_hand])
def test_a_checkpoint_changes_no_figure(loop, reentrant):
    plainly = train(loop, watched=True)[3].trace
    checkpointed = train(loop, watched=True, reentrant=reentrant)[3].trace
    assert {s.module: s.depth for s in checkpointed.sites} == {s.module: s.depth for s in plainly.sites}
    expected, found = frame_of(plainly), frame_of(checkpointed)
    assert found.index.equals(expected.index)
    for statistic in ("numel", "rms", "abs_max", "zero_fraction"):
        np.testing.assert_allclose(found[statistic], expected[statistic], rtol=1e-5, err_msg=statistic)


def in_one(model, x, reentrant):
    return checkpoint(model, x, use_reentrant=reentrant)


def in_segments(model, x, reentrant):
    return checkpoint_sequential(model, 3, x, use_reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("around", [in_one, in_segments])
def test_a_checkpoint_around_the_model_changes_no_figure(around, reentrant):
    def rows(run):
        torch.manual_seed(0)
        model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(6, 6), nn.Tanh())))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scope = gradscope.attach(model, optimizer=optimizer)
        for _ in range(4):
            run(model, torch.randn(4, 6, requires_grad=True)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        scope.detach()
        return scope.trace

    expected, found = rows(lambda model, x: model(x)), rows(lambda model, x: around(model, x, reentrant))
    assert found.steps.tolist() == expected.steps.tolist()
    for quantity in ("output", "output_grad", "weight_grad"):
        sites, values = expected.by_depth(quantity, "rms")
        assert found.by_depth(quantity, "rms")[0] == sites
        np.testing.assert_allclose(found.by_depth(quantity, "rms")[1], values, rtol=1e-5, err_msg=quantity)


class Twice(nn.Module):
    """One layer that runs three times, each time in a checkpoint of its own; those may lie in another checkpoint."""

    def __init__(self, reentrant: bool | None, nested: bool):
        super().__init__()
        self.reentrant, self.stem, self.layer = reentrant, nn.Linear(6, 6), nn.Linear(6, 6)
        self.nested = nested

    def part(self, x):
        return self.layer(x) if self.reentrant is None else checkpoint(self.layer, x, use_reentrant=self.reentrant)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = checkpoint(self.part, x, use_reentrant=self.reentrant) if self.nested else self.part(x)
        return x


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_calls_of_one_layer_in_checkpoints_keep_their_order(reentrant, nested):
    def rows(kind):
        torch.manual_seed(0)
        model = Twice(kind, nested and kind is not None)
        scope = gradscope.attach(model)
        for _ in range(2):
            model(torch.randn(4, 6)).sum().backward()
        return scope.trace

    expected, found = rows(None), rows(reentrant)
    for quantity in ("output", "output_grad", "input_grad"):
        np.testing.assert_allclose(
            found.by_time("layer", quantity, "rms"), expected.by_time("layer", quantity, "rms"), rtol=1e-5
        )


@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
def test_scaled_gradients_are_recorded_as_they_are_and_a_skipped_step_as_such(named):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    scope = gradscope.attach(model, optimizer=optimizer, scaler=scaler if named else None)
    raw, scales = [], []
    for step in range(8):
        scales.append(scaler.get_scale())
        scaler.scale(loss_of(model) * (float("inf") if step in (3, 7) else 1)).backward()
        scaler.unscale_(optimizer)
        raw.append(model.first.weight.grad.norm().item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    scope.detach()
    trace = scope.trace
    assert trace.steps.tolist() == list(range(8))
    assert trace.per_step["loss_scale"].tolist() == scales
    assert scales[2] > scales[0]  # it grew between two steps,
    assert scales[4] < scales[3]  # and was lowered
    applied = np.isin(np.arange(8), (3, 7), invert=True)
    for quantity in ("weight_grad", "applied_grad", "weight_update", "output_grad"):
        seen = ~np.isnan(trace.series("first.weight" if quantity != "output_grad" else "first", quantity, "numel"))
        assert seen.tolist() == applied.tolist(), quantity
    found = trace.series("first.weight", "weight_grad", "l2_norm")
    np.testing.assert_allclose(found[applied], np.array(raw)[applied], rtol=1e-5)
    assert [(e.step, e.kind) for e in trace.events] == [(3, "step-skipped"), (7, "step-skipped")]
    assert "at a loss scale of" in trace.events[0].message
    diagnosis = scope.diagnose()
    assert not {f.code for f in diagnosis.findings} & {"GS401", "GS102"}
    assert not [item for item in diagnosis.not_judged if item.rule == "recording"]


def test_an_optimizer_that_takes_over_is_recorded_too():
    scope = train(second_optimizer_later, watched=True)[3]
    trace = scope.trace
    (event,) = trace.events
    assert (event.step, event.kind) == (3, "optimizer-replaced")
    assert [one["type"] for one in trace.meta["optimizers"]] == ["Adam"]
    assert not np.isnan(trace.series("first.weight", "weight_update", "rms")).any()
    assert trace.per_step["lr"].tolist() == pytest.approx([0.1] * 3 + [0.01] * 3)


def test_an_optimizer_of_another_model_changes_nothing():
    model, other = Net(), Net()
    optimizer, stranger = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    scope = gradscope.attach(model, optimizer=optimizer)
    for _ in range(3):
        (loss_of(model) + loss_of(other)).backward()
        stranger.step()
        optimizer.step()
    assert scope.trace.steps.tolist() == [0, 1, 2]
    assert scope.trace.events == ()


def test_an_optimizer_can_be_watched_later():
    model = Net()
    scope = gradscope.attach(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope.watch(optimizer)
    scope.watch(optimizer)
    for _ in range(2):
        for _ in range(2):
            loss_of(model).backward()
        optimizer.step()
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1]
    assert not np.isnan(trace.series("stem.weight", "applied_grad", "rms")).any()
    with pytest.raises(gradscope.GradscopeError, match="holds none of the parameters"):
        scope.watch(torch.optim.SGD(Net().parameters(), lr=0.1))


def test_the_learning_rate_is_the_one_that_was_applied():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    scope = gradscope.attach(model, optimizer=optimizer)
    applied = []
    for _ in range(4):
        loss_of(model).backward()
        applied.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    trace = scope.trace
    assert trace.per_step["lr"].tolist() == applied
    assert trace.meta["optimizers"][0]["lr"] == 0.5


def test_the_passes_of_an_accumulation_are_the_times_of_a_step():
    trace = train(accumulation, watched=True)[3].trace
    assert trace.by_time("head", "output", "numel").shape == (6, 4)
    norms = trace.by_time("head", "output_grad", "l2_norm")
    assert (norms > 0).all()


def test_a_half_of_two_has_only_what_it_moved():
    trace = train(alternating, watched=True)[3].trace
    stem, head = (~np.isnan(trace.series(f"{name}.weight", "weight_update", "rms")) for name in ("stem", "head"))
    assert stem.tolist() == [True, False] * 3
    assert head.tolist() == [False, True] * 3

"""The mode that sees calls is on while the model runs, off afterwards whatever happens, and changes nothing."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.probes.calls import is_torchs_own
from gradscope.trace import Trace


def modes() -> int:
    return int(torch._C._len_torch_function_stack())


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    assert modes() == 0
    yield
    assert modes() == 0


class Odd(nn.Module):
    """Calls functions in every way that a training may."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.inner = Inner(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.1, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.inner(x)), 0.2, self.training)
        x = x + self.attention(x, x, x)[0]
        x = self.encoder(x).relu_()
        x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.1)[:, 0]
        x = F.rrelu(x, training=True) + torch.sigmoid(x) * torch.tanh(x)
        x = checkpoint(self.inner, x, use_reentrant=False)
        return self.out(checkpoint(self.inner, x, use_reentrant=True) if x.requires_grad else x)


class Inner(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.act: Callable[[Tensor], Tensor] = F.gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


def trained(model: nn.Module, x: Tensor, steps: int = 3, *, watch: bool = True) -> tuple[list[Tensor], Trace | None]:
    """Everything that the training computes, to the end of the random numbers, and what was recorded."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer) if watch else None
    seen: list[Tensor] = []
    for _ in range(steps):
        optimizer.zero_grad()
        y = model(x)
        y.square().mean().backward()
        seen += [y.detach().clone(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
    seen += [*(p.detach() for p in model.parameters()), torch.get_rng_state()]
    if scope is not None:
        scope.detach()
        assert not [e for e in scope.trace.events if e.kind == "probe-failed"]
    return seen, scope.trace if scope is not None else None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_watching_does_no_harm(training: bool, frozen: bool, autocast: bool) -> None:
    torch.manual_seed(0)
    model, x = Odd().train(training), torch.randn(3, 4, 6)
    if frozen:
        for module in (model.attention, model.inner):  # any hook takes nn.TransformerEncoderLayer off its fast path
            module.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        wanted, _ = trained(copy.deepcopy(model), x, watch=False)
        found, _ = trained(model, x)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_recomputation_in_a_backward_does_not_count_twice() -> None:
    torch.manual_seed(0)
    _, trace = trained(Odd(), torch.randn(3, 4, 6))
    for quantity in ("output", "output_grad"):
        assert trace.by_time("inner.gelu#0", quantity, "rms").shape == trace.by_time("inner.fc", quantity, "rms").shape


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_interrupted_forward_leaves_nothing_after_the_next_step(kind: type[BaseException]) -> None:
    class Stops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.stop = Inner(4), False

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.inner(x))
            if self.stop:
                raise kind
            return x

    model = Stops()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for step in range(4):
            model.stop = step == 1
            optimizer.zero_grad()
            with suppress(kind):
                model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    assert {s.module for s in scope.trace.sites if "#" in s.module} == {"relu#0", "inner.gelu#0"}


def test_a_model_that_calls_itself_and_one_that_is_called_in_parts() -> None:
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            x = torch.tanh(self.fc(x))
            return x if depth == 0 else F.relu(self(x, depth - 1))

    _, trace = trained(Recursive(), torch.randn(3, 4))
    assert trace.by_time("tanh#0", "output", "rms").shape == (3, 3)
    assert {s.module for s in trace.sites if "#" in s.module} == {"tanh#0", "relu#0"}

    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(2):
            optimizer.zero_grad()
            model.out(model.inner(torch.randn(3, 6))).sum().backward()
            optimizer.step()
    assert "inner.gelu#0" in {s.module for s in scope.trace.sites}


def test_evaluation_and_transforms_are_not_looked_at() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                torch.tanh(x)
            return torch.vmap(torch.sigmoid)(F.relu(self.fc(x)))

    model = Mapped()
    _, trace = trained(model, torch.randn(3, 4))
    assert {s.module for s in trace.sites if "#" in s.module} == {"relu#0"}


class Counting(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_modes_of_others_see_what_they_saw_without_us() -> None:
    class Inside(nn.Module):
        def __init__(self, mode: Counting) -> None:
            super().__init__()
            self.fc, self.mode = nn.Linear(4, 4), mode

        def forward(self, x: Tensor) -> Tensor:
            with self.mode:
                x = F.relu(self.fc(x))
            return torch.tanh(x)

    def count(*, watch: bool) -> tuple[list[str], list[str]]:
        inside, outside = Counting(), Counting()
        with outside:
            model = Inside(inside)
            x = torch.randn(3, 4)
            scope = gradscope.attach(model) if watch else None
            outside.seen.clear()
            model(x)
            seen = [name for name in outside.seen if name in ("relu", "linear", "tanh")]
            if scope is not None:
                scope.detach()
                assert {s.module for s in scope.trace.sites if "#" in s.module} == {"relu#0", "tanh#0"}
        return inside.seen, seen

    watched, bare = count(watch=True), count(watch=False)
    assert watched[1] == bare[1]
    assert [name for name in watched[0] if name in ("relu", "linear")] == bare[0]


def test_a_mode_is_of_one_thread() -> None:
    elsewhere: list[int] = []

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: elsewhere.extend([modes(), len(torch.tanh(x.detach()))]))
            thread.start()
            thread.join()
            assert modes() == 1
            return torch.relu(self.fc(x))

    with gradscope.attach(Asks()) as scope:
        scope._target.model(torch.randn(3, 4)).sum().backward()
    assert elsewhere == [0, 3]
    assert {s.module for s in scope.trace.sites if "#" in s.module} == {"relu#0"}


def test_a_failure_of_ours_is_none_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradscope.probes.functional._Sites.at", lambda *args: 1 / 0)
    model = Inner(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(3):
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    (event,) = (e for e in scope.trace.events if e.kind == "probe-failed")
    assert "functional" in event.message
    assert "ZeroDivisionError" in event.message


def test_detaching_inside_of_a_forward_leaves_nothing() -> None:
    class Detaches(Inner):
        scope: gradscope.Scope | None = None

        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            if self.scope is not None:
                self.scope.detach()
            return torch.tanh(x)

    model = Detaches(4)
    model.scope = gradscope.attach(model)
    model(torch.randn(3, 4)).sum().backward()
    assert modes() == 0
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_torchs_own_modules_own_no_calls() -> None:
    class Mine(nn.Linear):
        pass

    assert is_torchs_own(nn.Linear(1, 1))
    assert is_torchs_own(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    assert not is_torchs_own(Mine(1, 1))
    assert not is_torchs_own(nn.TransformerEncoderLayer(2, 1, 2))

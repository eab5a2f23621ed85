"""A recurrence that is written out in a forward: its gradients through time are those of autograd."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.loops import loops
from gradscope.trace import Trace


class Written(nn.Module):
    """One layer makes the input's part, one the state's."""

    def __init__(self) -> None:
        super().__init__()
        self.drive, self.state, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.states = [torch.zeros(len(x), 5)]
        for now in x.unbind(1):
            self.states.append(torch.tanh(self.drive(now) + self.state(self.states[-1])))
        return self.head(self.states[-1])


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Written()

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.inner.drive(x) + self.inner.state(h))


class WithCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = Cell(), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 5)
        for now in x.unbind(1):
            h = self.cell(now, h)
        return self.head(h)


class Twins(nn.Module):
    """The same layer for each of many items: no loop."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.tower(part) for part in x.unbind(1)]).sum(0))


class Bare(nn.Module):
    """The state goes through a parameter and no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5, 5))
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.states = [torch.zeros(len(x), 5)]
        for now in x.unbind(1):
            self.states.append(torch.tanh(now @ self.u + self.states[-1] @ self.w))
        return self.head(self.states[-1])


class Filter(nn.Module):
    """A sum that is multiplied at each position; nothing comes back to any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.drive = nn.Parameter(torch.rand(5)), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.states = [torch.zeros(len(x), 5)]
        for now in x.unbind(1):
            self.states.append(self.decay * self.states[-1] + self.drive(now))
        return self.states[-1]


class Filtered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = Filter(), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.filter(x))


class Shared(nn.Module):
    """One activation for many layers: depth, no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.act = nn.ModuleList(nn.Linear(3, 3) for _ in range(12)), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        for layer in self.layers:
            x = self.act(layer(x))
        return x


class Search(nn.Module):
    """The same is given beside the state again and again; with `parts`, one after the other of a sequence."""

    def __init__(self, parts: bool) -> None:
        super().__init__()
        self.drive, self.state, self.parts = nn.Linear(3, 3), nn.Linear(3, 3), parts

    def forward(self, x: Tensor) -> Tensor:
        drive = self.drive(x)
        h = torch.zeros(len(x), 3)
        for t in range(x.shape[1]):
            h = torch.tanh((drive[:, t] if self.parts else drive.mean(1)) + self.state(h))
        return h


class ReadAll(Written):
    """The loss sees every state."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        return self.head(torch.stack(self.states[1:]).sum(0))


def recorded(model: nn.Module) -> Trace:
    with gradscope.attach(model) as scope:
        for _ in range(2):
            model(torch.randn(4, 12, 3)).square().sum().backward()
            scope.step()
    return scope.trace


def test_the_gradient_of_the_state_is_that_of_autograd() -> None:
    torch.manual_seed(0)
    model = Written()
    torch.manual_seed(1)
    (found,) = loops(recorded(model), ())
    torch.manual_seed(1)
    loss = model(torch.randn(4, 12, 3)).square().sum()
    wanted = [float(g.square().mean().sqrt()) for g in torch.autograd.grad(loss, model.states[1:-1])]
    np.testing.assert_allclose(found.arriving[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(found.gain[0, :-1], np.divide(wanted[:-1], wanted[1:]), rtol=1e-5)
    assert (found.module, found.lag.tolist(), found.step.tolist()) == ("state", [10, 10], [0, 1])


@pytest.mark.parametrize("model", [Twins, Shared, lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))])
def test_a_layer_that_is_not_given_what_it_made_is_in_no_loop(model) -> None:
    assert loops(recorded(model()), ()) == ()


def test_the_layers_of_a_cell_are_the_cells_business() -> None:
    trace = recorded(WithCell())
    assert loops(trace, ("cell",)) == ()
    assert [one.module for one in loops(trace, ())] == ["cell.inner.state"]


@pytest.mark.parametrize(
    ("model", "states", "owner"),
    [(Bare, lambda m: m.states[1:], ""), (Filtered, lambda m: m.filter.states[1:], "filter")],
)
def test_a_state_that_goes_through_bare_parameters_is_their_modules(model, states, owner) -> None:
    torch.manual_seed(0)
    net = model()
    torch.manual_seed(1)
    (found,) = loops(recorded(net), ())
    torch.manual_seed(1)
    loss = net(torch.randn(4, 12, 3)).square().sum()
    wanted = [float(g.square().mean().sqrt()) for g in torch.autograd.grad(loss, states(net))]
    np.testing.assert_allclose(found.arriving[0], wanted, rtol=1e-5)
    assert (found.module, found.lag.tolist()) == (owner, [11, 11])


@pytest.mark.parametrize("known", ["", "filter"])
def test_what_is_inside_of_a_known_recurrence_is_no_other(known) -> None:
    assert loops(recorded(Filtered()), (known,)) == ()


@pytest.mark.parametrize(("model", "alone"), [(Written, True), (Bare, True), (Filtered, True), (ReadAll, False)])
def test_where_only_the_last_state_is_read_all_else_is_carried(model, alone) -> None:
    (found,) = loops(recorded(model()), ())
    assert (found.carried is not None) == alone


@pytest.mark.parametrize("parts", [True, False])
def test_the_same_input_again_and_again_is_a_search_for_a_fixed_point(parts) -> None:
    (found,) = loops(recorded(Search(parts)), ())
    assert found.refines == (not parts)

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


@pytest.mark.parametrize("model", [Twins, lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))])
def test_a_layer_that_is_not_given_what_it_made_is_in_no_loop(model) -> None:
    assert loops(recorded(model()), ()) == ()


def test_the_layers_of_a_cell_are_the_cells_business() -> None:
    trace = recorded(WithCell())
    assert loops(trace, ("cell",)) == ()
    assert [one.module for one in loops(trace, ())] == ["cell.inner.state"]

import torch
from torch import nn

import gradscope


class Block(nn.Module):
    def __init__(self, divisor):
        super().__init__()
        self.inner, self.divisor = nn.Linear(4, 4), divisor

    def forward(self, x):
        return {"out": self.inner(x) / self.divisor}


class Net(nn.Module):
    def __init__(self, divisor):
        super().__init__()
        self.first, self.second, self.rest = Block(1.0), Block(divisor), nn.Sequential(nn.Linear(4, 1))

    def forward(self, x):
        return self.rest(self.second(self.first(x)["out"])["out"])


def recorded(divisors):
    """The trace of steps in which the second block divides by these."""
    torch.manual_seed(0)
    model = Net(1.0)
    with gradscope.attach(model) as scope:
        for divisor in divisors:
            model.second.divisor = divisor
            model(torch.randn(3, 4)).sum().backward()
            model.zero_grad()
    return scope.trace


def test_the_container_that_makes_it_is_noted_with_its_first_step():
    assert recorded([1.0, 2.0, 0.0, 0.0]).meta["broken"] == {"second": 2}


def test_nothing_is_noted_while_everything_is_finite():
    assert "broken" not in recorded([1.0, 2.0]).meta


def test_containers_are_no_sites_and_leave_no_hook():
    model = Net(1.0)
    with gradscope.attach(model) as scope:
        model(torch.randn(3, 4)).sum().backward()
    assert not {"first", "second"} & {site.module for site in scope.trace.sites}
    assert not any(module._forward_hooks for module in model.modules())

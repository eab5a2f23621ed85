"""What could not be seen is told, and why."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradscope


class Net(nn.Module):
    """Runs some of its parts in ways that no hook sees, and some not at all."""

    def __init__(self):
        super().__init__()
        self.called, self.direct, self.read = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.never, self.silently = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            x = x + self.silently(x)
        x = self.direct.forward(self.called(x))
        return nn.functional.linear(x, self.read.weight)


def trained(model: nn.Module, steps: int = 1, **options):
    scope = gradscope.attach(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **options)
    for _ in range(steps):
        model(torch.randn(2, 4)).sum().backward()
        scope._steps.optimizers[0].step()
    return scope


def spots(scope) -> dict[str, str]:
    return {spot["module"]: spot["why"] for spot in scope.trace.meta["blind_spots"]}


def test_a_module_that_no_hook_saw_is_told_with_the_reason():
    found = spots(trained(Net()))
    assert set(found) == {"direct", "read", "never", "silently"}
    assert found["direct"] == found["read"]
    assert "gets gradients but is never called" in found["direct"]
    assert found["never"] == found["silently"] == "never ran with gradients in a recorded step"


def test_a_function_that_only_a_reentrant_checkpoint_calls_is_told():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def part(self, x):
            return torch.relu(self.second(x))

        def forward(self, x):
            return checkpoint(self.part, self.first(x), use_reentrant=True)

    (found,) = spots(trained(Checkpointed())).items()
    assert found == ("relu#0", "is called without gradients, or within a checkpoint with `use_reentrant=True`")


def test_a_model_that_was_seen_whole_has_none():
    assert spots(trained(nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.MultiheadAttention(4, 2))[:2])) == {}


def test_a_module_that_was_added_later_is_told():
    model = nn.Sequential(nn.Linear(4, 4))
    scope = trained(model)
    model.append(nn.Linear(4, 4))
    assert "added after `attach`" in spots(scope)["1"]
    model[0] = nn.Linear(4, 4)
    assert "replaced after `attach`" in spots(scope)["0"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*TorchScript.*")
def test_a_scripted_part_takes_no_hooks():
    found = spots(trained(nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))))
    assert found == {"1": "is compiled by torch.jit and takes no hooks"}


def test_nothing_is_said_of_outputs_that_nobody_watches():
    from gradscope.probes import Parameters

    assert spots(trained(Net(), probes=[Parameters()])) == {}


def test_the_file_of_a_killed_run_has_them_too(tmp_path):
    path = tmp_path / "run.h5"
    scope = trained(Net(), steps=40, trace=path)
    found = gradscope.read_trace(path)  # while it is being written
    assert {spot["module"] for spot in found.meta["blind_spots"]} == {"direct", "read", "never", "silently"}
    scope.detach()

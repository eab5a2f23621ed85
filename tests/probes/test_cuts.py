"""Where a model's own code takes values out of the graph, and what it took them from."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradscope


class Branches(nn.Module):
    """Two branches; `leave` says what becomes of the second one's value."""

    def __init__(self, leave):
        super().__init__()
        self.main, self.side, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.leave = leave

    def forward(self, x):
        return self.head(torch.relu(self.main(x)) + self.leave(self.side(x)))


LEAVE = {
    "detach": lambda y: y.detach(),
    "torch.detach": torch.detach,
    "data": lambda y: y.data,
    "argmax": lambda y: y.argmax(dim=1, keepdim=True),
    "item": lambda y: y.sum().item(),
    "float": lambda y: float(y.sum()),
    "argsort": lambda y: torch.argsort(y),
}


def recorded(model, steps=4):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    return scope


def places(scope):
    return [(one["function"], one["modules"]) for one in scope.trace.meta["cuts"]]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True")  # torch's own, on `float(y)`
@pytest.mark.parametrize("name", LEAVE)
def test_what_leaves_the_graph_is_noted_once_with_its_line(name):
    scope = recorded(Branches(LEAVE[name]))
    assert places(scope) == [({"torch.detach": "detach", "float": "item"}.get(name, name), ["side"])]
    (cut,) = scope.trace.meta["cuts"]
    code = LEAVE[name].__code__ if name != "torch.detach" else Branches.forward.__code__
    lines = {line for _, _, line in code.co_lines()}
    assert cut["file"] == "tests/probes/test_cuts.py"
    assert cut["line"] in lines


def test_a_branch_that_is_cut_is_an_error_that_names_the_line_and_an_unused_one_a_warning():
    (finding,) = recorded(Branches(LEAVE["detach"])).diagnose().findings
    assert (finding.code, finding.module, finding.severity) == ("GS103", "side", "error")
    assert f"`detach` at tests/probes/test_cuts.py:{LEAVE['detach'].__code__.co_firstlineno}" in finding.cause
    (finding,) = recorded(Branches(lambda y: 0.0)).diagnose().findings
    assert (finding.code, finding.module, finding.severity) == ("GS103", "side", "warning")


def test_all_that_lies_before_the_cut_is_named_and_data_are_not():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            self.own = nn.Parameter(torch.ones(4))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            seen = x.detach()  # of data nothing is cut
            return self.head((self.body(seen) * self.own).detach())

    assert places(recorded(Deep())) == [("detach", ["", "body.0", "body.2"])]


def test_a_straight_through_estimator_cuts_and_is_healthy():
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.fc(x)
            return self.head(y + (y.round() - y).detach())

    scope = recorded(Rounded())
    assert places(scope) == [("detach", ["fc"])]
    assert scope.diagnose().codes == set()


def test_torchs_own_cuts_are_none_of_the_models():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = checkpoint(self.body, self.stem(x), use_reentrant=True)
            return self.head(nn.functional.gumbel_softmax(x, hard=True))

    assert places(recorded(Checkpointed())) == []


def test_without_gradients_nothing_is_cut():
    model = Branches(LEAVE["detach"])
    with gradscope.attach(model) as scope:
        with torch.no_grad():
            model(torch.randn(8, 4))
        model.eval()
        model(torch.randn(8, 4)).square().mean().backward()
        scope.step()
    assert [cut["modules"] for cut in scope.trace.meta["cuts"]] == [["side"]]

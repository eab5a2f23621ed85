"""The gradient budget: its terms are autograd's, and they add up."""

import json
import math

import numpy as np
import pytest
import torch
from examples import printed
from torch import nn
from torch.nn import functional as F

import gradscope
from gradscope.budget import budget_of, signed, why_none
from gradscope.kinds import Kind
from gradscope.rules.engine import diagnose


def mlp(activation, depth=12, norm=False):
    parts = []
    for _ in range(depth):
        parts += [nn.Linear(24, 24), *([nn.BatchNorm1d(24)] if norm else []), activation()]
    return nn.Sequential(*parts, nn.Linear(24, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self, kind=nn.RNN):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Linear(24, 24), kind(24, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x.unsqueeze(1).expand(-1, 20, -1)))[0][:, -1])


class Functional(nn.Module):
    """Functions between the modules, one of which halves what comes through."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x):
        return self.c(torch.sigmoid(self.b(0.5 * torch.sigmoid(self.a(x)))).reshape(-1, 24))


class Residual(nn.Module):
    def __init__(self, blocks=3):
        super().__init__()
        self.stem, self.head = nn.Linear(24, 24), nn.Linear(24, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 24)) for _ in range(blocks)
        )

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.RNNCell(24, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.zeros(len(x), 8)
        for _ in range(30):
            h = self.cell(x, h)
        return self.head(h)


def recorded(model, steps=1, x=None, **options):
    torch.manual_seed(1)
    x = torch.randn(16, 24) if x is None else x
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradscope.attach(model, optimizer=optimizer, **options) as scope:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), torch.arange(16) % 3).backward()
            optimizer.step()
    return scope.trace


def by_autograd(model, x):
    """‖∂L/∂y‖ of every leaf's output, by name, from one `torch.autograd.grad`."""
    outputs = {}

    def keep(name):
        def hook(module, args, output):
            outputs[name] = output if type(output) is torch.Tensor else output[0]

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(keep(name))
        if isinstance(module, nn.ReLU):
            module.inplace = False  # else it changes what is asked for
    loss = F.cross_entropy(model(x), torch.arange(16) % 3)
    gradients = torch.autograd.grad(loss, list(outputs.values()))
    return {name: float(g.double().norm()) for name, g in zip(outputs, gradients, strict=True)}


SEQUENTIAL = {
    "sigmoid": (lambda: mlp(nn.Sigmoid), (16, 24)),
    "relu": (lambda: mlp(nn.ReLU), (16, 24)),
    "batchnorm": (lambda: mlp(nn.ReLU, norm=True), (16, 24)),
    "cnn": (cnn, (16, 1, 12, 12)),
    "functions": (Functional, (16, 24)),
    "rnn": (Recurrent, (16, 24)),
    "lstm": (lambda: Recurrent(nn.LSTM), (16, 24)),
}


@pytest.mark.parametrize(("build", "shape"), SEQUENTIAL.values(), ids=SEQUENTIAL)
def test_the_terms_are_those_of_autograd_and_add_up_to_the_end_to_end_ratio(build, shape):
    torch.manual_seed(0)
    model, x = build(), torch.randn(*shape)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    budget = budget_of(recorded(model, x=x))
    model.load_state_dict(state)
    norms = by_autograd(model, x)
    names = list(norms)
    whole = math.log10(norms[names[0]] / norms[names[-1]])
    assert budget.decades == pytest.approx(whole, rel=0.01, abs=1e-4)
    assert (budget.late, budget.early) == (names[-1], names[0])
    # what lies between what two neighbours return is the later one's, with the functions between
    places = {name: at for at, name in enumerate(names)}
    decades = dict.fromkeys(names, 0.0)
    later = names[-1]
    for term in budget.terms:
        later = term.module if term.module in places else later
        decades[later] += term.decades
    for name, before in zip(names[1:], names, strict=False):
        assert decades[name] == pytest.approx(math.log10(norms[before] / norms[name]), rel=0.01, abs=1e-3), name


def test_over_several_steps_they_still_add_up_and_a_bad_step_does_not_count():
    trace = recorded(mlp(nn.Tanh, depth=5), steps=9)
    trace.statistics["l2_norm"][4, trace.columns("output_grad")[0]] *= 1e-9
    budget = budget_of(trace)
    assert 4 not in budget.rows
    ends = [np.log10(trace.series(name, "output_grad", "l2_norm")[list(budget.rows)]) for name in ("0", "10")]
    assert budget.decades == pytest.approx(float(np.mean(ends[0] - ends[1])), abs=1e-4)
    assert sum(budget.by_kind.values()) == pytest.approx(budget.decades)
    assert sum(group.decades for group in budget.groups) == pytest.approx(budget.decades)
    assert budget.per_step.shape == (9,)


def test_the_sentence_names_the_ends_the_classes_and_the_bound():
    sentence = budget_of(recorded(mlp(nn.Sigmoid))).sentence
    assert sentence.startswith("−")
    assert "decades between `24` and `0`: −" in sentence
    assert " in 12 Sigmoids (0.2" in sentence
    assert "each, bound 0.25), −" in sentence
    assert " in 12 Linears (" in sentence


def test_a_residual_net_tells_the_skip_from_the_branch():
    trace = recorded(Residual())
    budget = budget_of(trace)
    skips = [term for term in budget.terms if term.kind is Kind.SKIP]
    assert [term.module for term in skips] == ["blocks.2", "blocks.1", "blocks.0"]
    ends = [float(np.log10(trace.series(n, "output_grad", "l2_norm")[0])) for n in ("stem", "head")]
    assert budget.decades == pytest.approx(ends[0] - ends[1], abs=1e-4)
    for term in skips:
        (branch,) = term.within
        assert [inner.module for inner in branch.within] == [f"{term.module}.{i}" for i in (3, 2, 1)]
        assert not branch.exact
        assert 0.5 < term.gain < 2  # so the norms do not tell what came through the branch
        assert term.about == ""


def test_the_branch_hands_back_what_the_norms_allow():
    torch.manual_seed(0)
    model, x = Residual(1), torch.randn(16, 24)
    term = next(term for term in budget_of(recorded(model, x=x)).terms if term.kind is Kind.SKIP)
    torch.manual_seed(0)
    model = Residual(1)
    before = model.stem(x).detach().requires_grad_()
    join = before + model.blocks[0](before)
    loss = F.cross_entropy(model.head(join), torch.arange(16) % 3)
    at_join, whole = torch.autograd.grad(loss, [join, before])
    assert term.gain == pytest.approx(float(whole.norm() / at_join.norm()), rel=0.01)
    share = float((whole - at_join).norm() / at_join.norm())
    assert abs(term.gain - 1) <= share <= term.gain + 1


def test_a_cell_in_a_loop_is_one_term():
    budget = budget_of(recorded(Cell()))
    assert [(term.module, term.kind, term.calls) for term in budget.terms] == [
        ("head", Kind.WEIGHTS, 1),
        ("cell", Kind.RECURRENCE, 29),
    ]
    (through,) = budget.terms[1].within
    assert through.decades == pytest.approx(budget.terms[1].decades, rel=0.02)


def test_a_part_of_the_way():
    budget = budget_of(recorded(mlp(nn.Sigmoid)))
    part = budget.between("18", "6")
    assert [term.module for term in part.terms] == [str(i) for i in range(18, 6, -1)]
    assert budget.between("24", "0").decades == pytest.approx(budget.decades)
    assert budget.between("6", "18") is None
    assert budget.between("nothing", "0") is None


def test_behind_a_gradient_of_exactly_zero_the_way_ends():
    model = mlp(nn.ReLU, depth=4)
    model[3].register_full_backward_hook(lambda m, given, _: tuple(g * 0 for g in given))
    budget = budget_of(recorded(model))
    assert budget.early == "3"
    assert math.isfinite(budget.decades)


def test_the_diagnosis_has_it_and_tells_it_as_json():
    diagnosis = diagnose(recorded(mlp(nn.Sigmoid)))
    assert diagnosis.budget.early == "0"
    document = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert document["budget"]["sentence"] == diagnosis.budget.sentence
    assert sum(term["decades"] for term in document["budget"]["terms"]) == pytest.approx(diagnosis.budget.decades)


def test_without_the_graph_there_is_none():
    from gradscope.probes import Gradients, Parameters

    trace = recorded(mlp(nn.Tanh), probes=[Gradients(), Parameters()])
    assert budget_of(trace) is None
    assert diagnose(trace).budget is None
    assert "budget" not in diagnose(trace).to_dict()


class TwoBranches(nn.Module):
    """A long branch of sigmoids beside a short one; nothing but the head lies on both."""

    def __init__(self):
        super().__init__()
        self.long, self.short = mlp(nn.Sigmoid, depth=5), nn.Linear(24, 8)
        self.head = nn.Linear(11, 3)

    def forward(self, x):
        return self.head(torch.cat([self.long(x), self.short(x)], 1))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.long, self.short = mlp(nn.Sigmoid, depth=5), nn.Linear(24, 3)

    def forward(self, x):
        return self.long(x), self.short(x)


def test_of_branches_that_begin_apart_it_follows_the_one_that_loses_the_most():
    trace = recorded(TwoBranches())
    budget = budget_of(trace)
    assert (budget.late, budget.early) == ("head", "long.0")
    norms = {n: float(trace.series(n, "output_grad", "l2_norm")[0]) for n in ("head", "long.0", "short")}
    assert budget.decades == pytest.approx(math.log10(norms["long.0"] / norms["head"]), abs=1e-4)
    (other,) = budget.others
    assert (other.late, other.early) == ("head", "short")
    assert other.decades == pytest.approx(math.log10(norms["short"] / norms["head"]), abs=1e-4)
    assert "the branch that loses the most (−" in budget.sentence
    assert "5 Sigmoids" in budget.sentence
    assert budget.between("long.8", "long.0").others == ()


def test_of_several_heads_too():
    model, x = TwoHeads(), torch.randn(16, 24)
    with gradscope.attach(model) as scope:
        long, short = model(x)
        (long.square().mean() + short.square().mean()).backward()
    budget = budget_of(scope.trace)
    assert (budget.late, budget.early) == ("long.10", "long.0")


def test_a_common_path_with_a_lone_layer_before_it_ends_there():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place, self.body = nn.Linear(24, 24), nn.Linear(24, 24), mlp(nn.Tanh, depth=2)

        def forward(self, x):
            return self.body(self.token(x) + self.place(x))

    budget = budget_of(recorded(Positions()))
    assert budget.early.startswith("body")
    assert not budget.others


def test_what_happens_through_time_stands_beside_the_way_that_ends_there():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(24, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.rnn(x.unsqueeze(1).expand(-1, 20, -1))[0][:, -1])

    budget = budget_of(recorded(Reader()))
    (rnn,) = budget.beside
    (through,) = rnn.within
    assert (rnn.module, rnn.kind, budget.early) == ("rnn", Kind.RECURRENCE, "rnn")
    assert through.decades < -1
    assert math.isfinite(budget.decades)
    assert f"Through time {signed(through.decades)} in `rnn l0` (" in budget.sentence
    assert json.dumps(budget.to_dict()["beside"][0]["within"][0]["decades"])


def test_printed_it_is_its_sentence_and_with_rich_the_view():
    budget = budget_of(recorded(mlp(nn.Sigmoid)))
    assert str(budget) == budget.sentence
    assert repr(budget) == f"<Budget: {budget.sentence}>"
    shown = printed(budget, width=100)
    assert "By kind" in shown
    assert "By module" in shown


def run_of(model, x, loss):
    with gradscope.attach(model) as scope:
        loss(model(x)).backward()
    return scope.trace


REASONS = {
    "one layer": (lambda: nn.Linear(24, 3), torch.ones(4, 24), torch.sum, "the model is one layer"),
    "nothing finite": (lambda: mlp(nn.Tanh, 2), torch.ones(4, 24), lambda y: y.sum() * math.nan, "NaN or infinite"),
    "zeros": (lambda: mlp(nn.Tanh, 2), torch.ones(4, 24), lambda y: y.sum() * 0, "is exactly zero"),
    "empty": (lambda: mlp(nn.Tanh, 2), torch.ones(0, 24), torch.sum, "no elements, as of an empty batch"),
}


@pytest.mark.parametrize(("build", "x", "loss", "said"), REASONS.values(), ids=REASONS)
def test_why_there_is_none(build, x, loss, said):
    trace = run_of(build(), x, loss)
    assert budget_of(trace) is None
    assert said in why_none(trace)


@pytest.mark.parametrize(("decades", "text"), [(-11.24, "−11.2"), (0.31, "+0.3"), (-0.01, "0.0"), (0, "0.0")])
def test_signs(decades, text):
    assert signed(decades) == text

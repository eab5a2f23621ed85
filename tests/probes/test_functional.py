"""Functions that a model calls are sites with the figures of the modules that do the same."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

import gradscope
from gradscope.attention import of_queries_and_keys
from gradscope.records import STATISTICS
from gradscope.rules.attention_collapse import AttentionCollapse
from gradscope.trace import Trace

Function = Callable[[Tensor], Tensor]


class Written(nn.Module):
    """Layers whose activations are modules or functions."""

    def __init__(self, act: Function, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.acts = nn.ModuleList([copy.deepcopy(act) for _ in layers[1:]]) if isinstance(act, nn.Module) else None
        self.act = None if isinstance(act, nn.Module) else act

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers[:-1]):
            x = self.acts[i](layer(x)) if self.acts is not None else self.act(layer(x))
        return self.layers[-1](x.flatten(1))


def dense(depth: int = 3) -> list[nn.Module]:
    return [nn.Linear(8, 8) for _ in range(depth)]


def convolutions() -> list[nn.Module]:
    return [nn.Conv1d(1, 5, 3, padding=1), nn.Conv1d(5, 5, 3, padding=1), nn.Linear(40, 1)]


def recorded(model: nn.Module, inputs: Tensor, steps: int = 3, lr: float = 0.05) -> Trace:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for step in range(steps):
            optimizer.zero_grad()
            (model(inputs + step).square().mean()).backward()
            optimizer.step()
    assert torch._C._len_torch_function_stack() == 0
    assert not [e for e in scope.trace.events if e.kind == "probe-failed"]
    return scope.trace


TWINS: dict[str, tuple[nn.Module, Function]] = {
    "relu": (nn.ReLU(), F.relu),
    "relu in place": (nn.ReLU(inplace=True), F.relu_),
    "relu, keyword": (nn.ReLU(inplace=True), lambda x: F.relu(input=x, inplace=True)),
    "torch.relu": (nn.ReLU(), torch.relu),
    "x.relu_()": (nn.ReLU(inplace=True), lambda x: x.relu_()),
    "threshold": (nn.Threshold(0.1, 0.0), lambda x: F.threshold(x, 0.1, 0.0)),
    "relu6": (nn.ReLU6(), F.relu6),
    "gelu": (nn.GELU(), F.gelu),
    "gelu, tanh": (nn.GELU(approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "silu": (nn.SiLU(), F.silu),
    "mish": (nn.Mish(), F.mish),
    "hardswish": (nn.Hardswish(), F.hardswish),
    "elu": (nn.ELU(0.5), lambda x: F.elu(x, 0.5)),
    "elu, keyword": (nn.ELU(0.5), lambda x: F.elu(x, alpha=0.5)),
    "celu": (nn.CELU(2.0), lambda x: torch.celu(x, 2.0)),
    "selu": (nn.SELU(), torch.selu),
    "leaky_relu": (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
    "softplus": (nn.Softplus(), F.softplus),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "x.sigmoid()": (nn.Sigmoid(), Tensor.sigmoid),
    "F.sigmoid": (nn.Sigmoid(), F.sigmoid),
    "expit": (nn.Sigmoid(), torch.special.expit),
    "tanh": (nn.Tanh(), torch.tanh),
    "F.tanh": (nn.Tanh(), F.tanh),
    "x.tanh_()": (nn.Tanh(), lambda x: x.tanh_()),
    "hardtanh": (nn.Hardtanh(-0.2, 0.3), lambda x: F.hardtanh(x, -0.2, max_val=0.3)),
    "softsign": (nn.Softsign(), F.softsign),
    "hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid),
    "logsigmoid": (nn.LogSigmoid(), F.logsigmoid),
}


@pytest.mark.parametrize("layers", [dense, convolutions])
@pytest.mark.parametrize("name", TWINS)
def test_a_function_has_the_figures_of_its_module(name: str, layers: Callable[[], list[nn.Module]]) -> None:
    torch.manual_seed(0)
    module, function = TWINS[name]
    built = layers()
    with_modules, with_functions = Written(module, copy.deepcopy(built)), Written(function, built)
    inputs = torch.randn(6, 8) * 4 if layers is dense else torch.randn(6, 1, 8) * 4
    wanted, found = recorded(with_modules, inputs), recorded(with_functions, inputs)
    renamed = {site.module.partition("#")[0] for site in found.sites if "#" in site.module}
    (function_name,) = renamed
    assert len(found.sites) == len(wanted.sites)
    for index, site in enumerate(wanted.sites):
        twin = site.module.replace("acts.", f"{function_name}#")
        column = next(
            i
            for i, s in enumerate(found.sites)
            if (s.module, s.quantity, s.name, s.module_type)
            == (twin, site.quantity, site.name, "Written" if not twin else site.module_type)
        )
        assert found.sites[column].depth == site.depth
        for statistic in STATISTICS:
            np.testing.assert_array_equal(
                found.statistics[statistic][:, column], wanted.statistics[statistic][:, index], f"{site} {statistic}"
            )


def test_the_same_line_after_the_same_layer_is_the_same_place_later() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.given = nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 4)
            for t in range(x.shape[1]):
                h = torch.tanh(self.given(x[:, t]) + self.own(h))
            return h

    trace = recorded(Cell(), torch.randn(5, 7, 3))
    assert {s.module for s in trace.sites if "#" in s.module} == {"tanh#0"}
    assert trace.by_time("tanh#0", "output", "rms").shape == (3, 7)
    assert np.isfinite(trace.by_time("tanh#0", "output_grad", "rms")).all()


def test_parameters_tell_layers_apart_where_there_is_no_module() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(4, 4) for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = (x @ weight.t()).tanh()
            return x

    trace = recorded(Plain(), torch.randn(5, 4))
    assert {s.module for s in trace.sites if "#" in s.module} == {"tanh#0", "tanh#1", "tanh#2"}


def test_owners_are_the_modules_that_call() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.norm(x + F.relu(self.fc(x))))

    class Mine(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.mine = nn.Sequential(Block(), Block()), Mine()

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(self.mine(self.blocks(x)))

    trace = recorded(Net(), torch.randn(5, 4))
    wanted = {f"blocks.{i}.relu#{k}" for i in (0, 1) for k in (0, 1)} | {"gelu#0"}
    assert {s.module for s in trace.sites if "#" in s.module} == wanted
    depths = {s.module: s.depth for s in trace.sites if s.quantity == "output"}
    assert sorted(depths, key=lambda m: depths[m])[-3:] == ["blocks.1.relu#1", "mine", "gelu#0"]


def test_modules_that_are_no_part_of_the_model_are_functions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out, self.known = nn.Linear(4, 6), nn.Linear(6, 1), nn.ReLU()
            self.hidden_away = [nn.Sequential(nn.Tanh())]

        def forward(self, x: Tensor) -> Tensor:
            x = self.hidden_away[0](nn.ReLU()(self.fc(x)))
            return self.out(self.known(nn.Softmax(dim=-1)(x) * x))

    trace = recorded(Net(), torch.randn(2, 3, 5, 4))
    functions = {s.module: s.module_type for s in trace.sites if "#" in s.module}
    assert functions == {"relu#0": "ReLU", "tanh#0": "Tanh", "softmax#0": "Softmax"}
    assert np.isfinite(trace.statistics["dead_fraction"][:, trace.column("relu#0", "output")]).all()


def test_the_layers_of_a_transformer_call_their_activation() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    trace = recorded(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(3, 5, 8))
    functions = {s.module: s.module_type for s in trace.sites if "#" in s.module}
    assert functions == {"layers.0.relu#0": "ReLU", "layers.1.relu#0": "ReLU"}


class Attention(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv, self.attend, self.out = nn.Linear(8, 24), nn.Softmax(dim=-1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.view(*x.shape[:2], 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)
        else:
            logits = (q @ k.transpose(2, 3)) / 2
            hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            logits = logits.masked_fill(hidden, torch.finfo(x.dtype).min)
            p = self.attend(logits) if self.how == "module" else F.softmax(logits, dim=-1)
            y = p @ v
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("how", ["fused", "written", "module"])
def test_attention_is_recorded_for_each_head(how: str) -> None:
    torch.manual_seed(0)
    model, x = Attention(how), torch.randn(3, 6, 8)
    q, k, _ = (part.view(3, 6, 2, 4).transpose(1, 2) for part in model.qkv(x).chunk(3, -1))
    wanted = of_queries_and_keys(q, k, causal=True)
    trace = recorded(model, x, steps=2)
    site = {"fused": "scaled_dot_product_attention#0", "written": "softmax#0", "module": "attend"}[how]
    for head in (0, 1):
        for stat, values in (("attention_entropy", wanted.entropy), ("max_logit", wanted.max_logit)):
            found = trace.series(site, "output", stat, name=f"head{head}")
            assert found[0] == pytest.approx(float(values[head]), rel=1e-5)
    assert trace.series(site, "output", "attention_entropy")[0] == pytest.approx(float(wanted.entropy.mean()), rel=1e-5)
    assert trace.series(site, "output", "max_logit")[0] == pytest.approx(float(wanted.max_logit.max()), rel=1e-5)
    assert (trace.series(site, "output_grad", "rms") > 0).all()


def test_softmax_over_classes_is_no_attention() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.softmax(self.fc(x), -1) + F.log_softmax(self.fc(x), -1)

    trace = recorded(Net(), torch.randn(5, 4))
    assert not AttentionCollapse().concerns(trace)
    assert (trace.series("softmax#0", "output", "max") <= 1).all()
    assert (trace.series("log_softmax#0", "output", "max") <= 0).all()


class Unusual(nn.Module):
    """Calls with tensors that no module would be given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        nested = torch.nested.as_nested_tensor([y[:1], y], layout=torch.jagged)
        inside = F.relu(nested).unflatten(-1, [2, 2]).transpose(1, 2)
        seen = F.scaled_dot_product_attention(inside, inside, inside).values()
        lower = F.scaled_dot_product_attention(y[None, :2], y[None], y[None], causal_lower_right(2, len(y)))
        kinds = torch.tanh(y.to(torch.complex64)).abs() + F.relu((x > 0).int()) + F.elu(y.double()).float()
        scalars = F.relu(y.sum()) + F.softmax(y.flatten(), 0).sum() + y[0, 0].sigmoid() + F.relu(y[:0]).sum()
        with torch.no_grad():
            torch.sigmoid(x, out=torch.empty_like(x))
        return kinds + scalars + seen.sum() + lower.sum()


@pytest.mark.filterwarnings("ignore:.*nested:UserWarning")
def test_unusual_tensors_are_no_failure() -> None:
    trace = recorded(Unusual(), torch.randn(5, 4))
    assert (trace.series("elu#0", "output", "numel") == 20).all()
    assert 0 < trace.series("scaled_dot_product_attention#1", "output", "attention_entropy")[0] < 1

"""Every number in a trace equals what plain autograd gives, without any hook of ours."""

import copy

import numpy as np
import pytest
import torch
from networks import NETWORKS, targets
from test_statistics import assert_measures
from torch import Tensor, nn
from torch.nn import functional as F

import gradscope
from gradscope.records import COLUMN, STATISTICS
from gradscope.statistics import measure
from gradscope.trace import Trace

CLIP = 0.05


def row(trace: Trace, module: str, quantity: str, name: str = "", step: int = 0) -> np.ndarray:
    index = trace.column(module, quantity, name)
    return np.array([trace.statistics[s][step, index] for s in STATISTICS])


def kept_by_hand(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """The loss, and a copy of what each leaf returned in each of its runs."""
    values: dict[str, list[Tensor]] = {}

    def keep(name: str):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            values.setdefault(name, []).append(output.detach().clone())

        return hook

    leaves = {n: m for n, m in model.named_modules() if not list(m.children()) or isinstance(m, nn.MultiheadAttention)}
    handles = [m.register_forward_hook(keep(n)) for n, m in leaves.items()]
    loss = F.cross_entropy(model(x), y)
    for handle in handles:
        handle.remove()
    return loss, values


@pytest.mark.parametrize("kind", NETWORKS)
def test_outputs_and_parameters(kind):
    build, batch = NETWORKS[kind]
    torch.manual_seed(0)
    model = build()
    twin = copy.deepcopy(model)
    x, y = batch(0), targets(0)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        torch.manual_seed(1)
        F.cross_entropy(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    trace = scope.trace

    torch.manual_seed(1)
    loss, values = kept_by_hand(twin, x, y)
    for name, outputs in values.items():
        path = "0" if isinstance(twin.get_submodule(name), nn.LSTM | nn.MultiheadAttention) else ""
        assert_measures(row(trace, name, "output", path), torch.cat([o.reshape(-1) for o in outputs]))
    trainable = {n: p for n, p in twin.named_parameters() if not n.startswith("never")}
    unused = {n for n, _ in twin.named_parameters() if n not in trainable and kind == "cnn"}
    grads = dict(zip(trainable, torch.autograd.grad(loss, list(trainable.values()), allow_unused=True), strict=True))
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads.values()]))
    assert total > CLIP
    before = {n: p.detach().clone() for n, p in twin.named_parameters()}
    for n, p in twin.named_parameters():
        p.grad = None if n in unused else grads[n] * (CLIP / (total + 1e-6))
    torch.optim.Adam(twin.parameters(), lr=1e-2, weight_decay=0.1).step()
    for full, p in twin.named_parameters():
        owner, _, name = full.rpartition(".")
        assert_measures(row(trace, owner, "weight", name), before[full])
        assert_measures(row(trace, owner, "weight_update", name), p.detach() - before[full])
        if full in unused:
            assert np.isnan(row(trace, owner, "weight_grad", name)).all(), "never observed, not zero"
            assert np.isnan(row(trace, owner, "applied_grad", name)).all()
            assert row(trace, owner, "weight_update", name)[COLUMN["zero_fraction"]] == 1
        else:
            assert_measures(row(trace, owner, "weight_grad", name), grads[full])
            assert_measures(row(trace, owner, "applied_grad", name), p.grad)
    assert row(trace, "", "total_norm", "raw")[COLUMN["l2_norm"]] == pytest.approx(float(total), rel=1e-5)
    assert row(trace, "", "total_norm", "applied")[COLUMN["l2_norm"]] == pytest.approx(CLIP, rel=1e-4)
    for name in unused:
        assert not trace.columns("output", name.rpartition(".")[0])


def explicit(kind: str, model: nn.Module, x: Tensor) -> tuple[Tensor, dict[tuple[str, str, int], Tensor]]:
    """The forward pass written out without in-place operations: (module, quantity, time) → the tensor itself."""
    if kind == "mlp":
        seen = {}
        for name, layer in model.named_children():
            seen[name, "input_grad", 0] = x
            x = seen[name, "output_grad", 0] = layer(x)
        return x, seen
    if kind == "cnn":
        a = model.stem(x)
        b = torch.relu(a)
        c = model.conv(b)
        d = model.norm(c)
        e = d + b
        f = torch.relu(e)
        g = model.drop(f)
        h = g.flatten(1)
        out = model.head(h)
        return out, {
            ("stem", "output_grad", 0): a, ("act", "input_grad", 0): a, ("act", "output_grad", 0): b,
            ("conv", "input_grad", 0): b, ("conv", "output_grad", 0): c, ("norm", "input_grad", 0): c,
            ("norm", "output_grad", 0): d, ("act", "input_grad", 1): e, ("act", "output_grad", 1): f,
            ("drop", "input_grad", 0): f, ("drop", "output_grad", 0): g, ("head", "input_grad", 0): h,
            ("head", "output_grad", 0): out,
        }  # fmt: skip
    if kind == "lstm":
        a = model.project(x)
        b = model.lstm(a)[0]
        c = b[:, -1]
        out = model.head(c)
        seen = {("project", "output_grad", 0): a, ("head", "input_grad", 0): c, ("head", "output_grad", 0): out}
        return out, seen | {("lstm", "input_grad", -1): a, ("lstm", "output_grad", -1): b}
    a = model.embed(x)
    b = a + model.position
    seen = {("embed", "output_grad", 0): a}
    for i, layer in enumerate(model.encoder.layers):
        n = f"encoder.layers.{i}"
        normed = layer.norm1(b)
        attended = layer.self_attn(normed, normed, normed, need_weights=False)[0]
        b = b + layer.dropout1(attended)
        second = layer.norm2(b)
        inner = layer.linear1(second)
        hidden = layer.dropout(torch.relu(inner))
        outer = layer.linear2(hidden)
        seen |= {
            (f"{n}.norm1", "output_grad", 0): normed, (f"{n}.norm2", "input_grad", 0): b,
            (f"{n}.norm2", "output_grad", 0): second, (f"{n}.linear1", "output_grad", 0): inner,
            (f"{n}.linear2", "input_grad", 0): hidden, (f"{n}.linear2", "output_grad", 0): outer,
        }  # fmt: skip
        b = b + layer.dropout2(outer)
    pooled = b.mean(1)
    out = model.head(pooled)
    return out, seen | {("head", "input_grad", 0): pooled, ("head", "output_grad", 0): out}


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_of_activations(kind):
    build, batch = NETWORKS[kind]
    torch.manual_seed(0)
    model = build()
    twin = copy.deepcopy(model)
    x, y = batch(0), targets(0)
    with gradscope.attach(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as scope:
        torch.manual_seed(1)
        F.cross_entropy(model(x), y).backward()
    trace = scope.trace
    torch.manual_seed(1)
    output, tensors = explicit(kind, twin, x)
    wanted = {key: tensor for key, tensor in tensors.items() if tensor.requires_grad}
    assert len(wanted) > 3
    grads = torch.autograd.grad(F.cross_entropy(output, y), list(wanted.values()))
    for (module, quantity, time), grad in zip(wanted, grads, strict=True):
        index = trace.columns(quantity, module)[0]
        if time == -1:  # a sequence: one row for each of its steps
            for t in range(grad.shape[1]):
                at = trace.times.values[(trace.times.site == index) & (trace.times.time == t)]
                assert_measures(at[0], grad[:, t])
            assert_measures(row(trace, module, quantity, trace.sites[index].name), grad)
        elif sum(m == module and q == quantity for m, q, _ in wanted) > 1:
            at = trace.times.values[(trace.times.site == index) & (trace.times.time == time)]
            assert_measures(at[0], grad)
        else:
            assert_measures(row(trace, module, quantity), grad)


def test_a_tensor_with_two_readers_has_the_sum_of_their_gradients():
    first, left, right = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)
    model = nn.ModuleDict({"first": first, "left": left, "right": right})
    x = torch.randn(5, 4)
    with gradscope.attach(model) as scope:
        h = first(x)
        (left(h).sum() + right(h).square().sum()).backward()
    h = first(x)
    (grad,) = torch.autograd.grad(left(h).sum() + right(h).square().sum(), h)
    for module, quantity in (("first", "output_grad"), ("left", "input_grad"), ("right", "input_grad")):
        assert_measures(row(scope.trace, module, quantity), grad)


def test_float64_models_are_measured_in_float64():
    model = nn.Linear(300, 20).double()
    x = torch.randn(8, 300, dtype=torch.float64)
    with gradscope.attach(model) as scope:
        (model(x).sum() * 1e-30).backward()
    (grad,) = torch.autograd.grad(model(x).sum() * 1e-30, model.weight)
    assert row(scope.trace, "", "weight_grad", "weight")[COLUMN["rms"]] == pytest.approx(
        float(grad.square().mean().sqrt()), rel=1e-6
    )


def test_sparse_gradients_count_the_rows_nobody_looked_up():
    model = nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Flatten(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.randint(10, (6, 3))
    with gradscope.attach(model, optimizer=optimizer) as scope:
        model(ids).square().sum().backward()
        dense = model[0].weight.grad.to_dense()
        optimizer.step()
    assert_measures(row(scope.trace, "0", "weight_grad", "weight"), dense)
    assert_measures(row(scope.trace, "0", "applied_grad", "weight"), dense)
    assert measure(dense)[COLUMN["zero_fraction"]] > 0.7

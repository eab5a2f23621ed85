"""∂L/∂c of `nn.LSTMCell` is that of an LSTM written by hand, however torch computes the step."""

import pytest
import torch
from torch import Tensor, nn

import gradscope

B, X, H, T = 3, 4, 5, 6


class Fused(torch.autograd.Function):
    """An LSTM's step as an accelerator's kernel does it: h and c are two results of one operation."""

    @staticmethod
    def forward(ctx, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = gates.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        new = f * c + i * g
        ctx.save_for_backward(i, f, g, o, c, new)
        return o * new.tanh(), new

    @staticmethod
    def backward(ctx, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o, c, new = ctx.saved_tensors
        total = grad_c + grad_h * o * (1 - new.tanh().square())
        parts = total * g * i * (1 - i), total * c * f * (1 - f), total * i * (1 - g * g)
        return torch.cat([*parts, grad_h * new.tanh() * o * (1 - o)], -1), total * f


def fused(x: Tensor, hx: tuple[Tensor, Tensor], w: Tensor, u: Tensor, b: Tensor | None, bu: Tensor | None) -> object:
    return Fused.apply(nn.functional.linear(x, w, b) + nn.functional.linear(hx[0], u, bu), hx[1])


def by_hand(cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    gates = x @ cell.weight_ih.T + h @ cell.weight_hh.T + (cell.bias_ih + cell.bias_hh if cell.bias else 0)
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kernel", ["a CPU's", "an accelerator's"])
def test_the_gradient_of_c_is_whole_whatever_the_kernel_returns(kernel, batched, given, bias, monkeypatch):
    torch.manual_seed(0)
    model = nn.ModuleDict({"cell": nn.LSTMCell(X, H, bias=bias)})
    if kernel == "an accelerator's":
        monkeypatch.setattr(torch._VF, "lstm_cell", fused, raising=False)
    shape = (B,) if batched else ()
    x, states = torch.randn(T, *shape, X), tuple(torch.randn(*shape, H) for _ in "hc") if given else None
    with gradscope.attach(model) as scope:
        now = states
        for position in x:
            now = model["cell"](position, now)
        now[0].square().sum().backward()
    now, kept = [s.reshape(-1, H) for s in states or (torch.zeros(*shape, H), torch.zeros(*shape, H))], []
    for position in x:
        now = by_hand(model["cell"], position.reshape(-1, X), *now)
        kept.append(now)
    for index, name in enumerate("hc"):
        grads = torch.autograd.grad(now[0].square().sum(), [s[index] for s in kept], retain_graph=True)
        found = scope.trace.by_time("cell", "state_grad", "l2_norm", name=name)[0].tolist()
        assert found == pytest.approx([float(g.norm()) for g in grads], rel=1e-4)
    assert not scope.trace.events

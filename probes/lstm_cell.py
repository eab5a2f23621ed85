"""The whole gradient of an LSTM cell's memory.

∂L/∂c_t comes over the link to the next step, and through h_t of the same step. On a CPU `nn.LSTMCell` computes h from
the c that it returns, so the gradient of that tensor is the whole. An accelerator's kernel makes both at once: the
gradient of its c lacks what comes through h. And without a batch both are views of what was computed.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional

Receive: TypeAlias = Callable[[Tensor | None], None]


def watch_memory(
    cell: nn.Module, x: Tensor | None, before: Tensor | None, h: Tensor, c: Tensor, receive: Receive
) -> None:
    """Sends the whole ∂L/∂c to `receive`; `cell` has made `h` and `c` from `x` and the h `before`, if there was one."""
    node, place = _maker(c)
    beside, place_of_h = _maker(h)
    if node is None or (node is c.grad_fn and node is not beside):
        c.register_hook(receive)
    elif node is not beside:
        node.register_prehook(partial(_receive, receive, place, None, None))
    elif isinstance(cell, nn.LSTMCell) and x is not None:
        slope = _output_gate(cell, x, before) * (1 - c.detach().tanh().square())  # ∂h/∂c
        node.register_prehook(partial(_receive, receive, place, place_of_h, slope))


def _maker(tensor: Tensor) -> tuple[Node | None, int]:
    """The node of the graph that computed `tensor`, not one that took an axis away, and which of its outputs it is."""
    node = tensor.grad_fn
    if node is not None and node.name().startswith("Squeeze"):
        return node.next_functions[0]
    return node, tensor.output_nr


def _receive(
    receive: Receive, place: int, place_of_h: int | None, slope: Tensor | None, grads: tuple[Tensor | None, ...]
) -> None:
    grad = grads[place]
    through_h = None if place_of_h is None else grads[place_of_h]
    if slope is not None and through_h is not None:
        grad = through_h * slope if grad is None else grad + through_h * slope
    receive(grad)


@torch.no_grad()
def _output_gate(cell: nn.LSTMCell, x: Tensor, before: Tensor | None) -> Tensor:
    """The output gate of a call, computed again."""
    gate = slice(3 * cell.hidden_size, None)  # torch's order: input, forget, cell, output
    bias_x, bias_h = (b[gate] if cell.bias else None for b in (cell.bias_ih, cell.bias_hh))
    start = torch.zeros_like(x[..., :1]).expand(*x.shape[:-1], cell.hidden_size) if before is None else before
    recurrent = functional.linear(start, cell.weight_hh[gate], bias_h)
    return (functional.linear(x, cell.weight_ih[gate], bias_x) + recurrent).sigmoid()

"""The states of cells: modules that a Python loop calls once for each step of a sequence.

    for t in range(length):
        h = cell(x[t], h)           # pre-hook: is h what the cell returned before?   forward hook: h_t and ∂L/∂h_t

The time of a state is the number of the call within the step. What happens inside of torch's fused layers is left to
`recurrent`.
"""

import inspect
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target
from gradscope.probes.tensors import named_tensors
from gradscope.records import Quantity

_MOST_NODES = 256  # of the graph between two calls are looked at: a loop does little to its state

# torch's own cells: the path of each state in what they return, and its name
_TORCH_CELLS: dict[type[nn.Module], dict[str, str]] = {
    nn.RNNCell: {"": "h"},
    nn.GRUCell: {"": "h"},
    nn.LSTMCell: {"0": "h", "1": "c"},
}


class Cells(Probe):
    """h_t and the whole ∂L/∂h_t of every cell, and the state h0 with which each sequence begins.

    `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell` are cells. A hand-written module shows that it is one in the second
    call of a step, when it is given the very tensor that it returned in the first, beside an input: one that comes
    before the state (`cell(x, h)`) or is a new one for each call (`cell(h, x)`). So neither two towers that share
    their weights nor a block that is applied again to its own output and the same mask count as a sequence.

    A call goes on with the sequence if its state follows from what the call before returned, be it through a mask or a
    dropout; else a sequence begins. A state that was detached begins one.
    """

    name = "cells"
    quantities = frozenset({Quantity.STATE, Quantity.STATE_GRAD})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward pre-hook and a forward hook on each module that is a cell or may show itself to be one."""
        handles = ExitStack()
        found = {name: module for name, module in target.model.named_modules() if _may_be_cell(module)}
        fused = {module: _Fused(recorder) for module in target.model.modules() if isinstance(module, nn.RNNBase)}
        cells = {module: _Cell(recorder, name, module) for name, module in found.items()}
        for module, cell in cells.items():
            handles.callback(cell.clear)
            handles.callback(module.register_forward_pre_hook(_Before(recorder, cell), with_kwargs=True).remove)
            handles.callback(module.register_forward_hook(_After(recorder, cell)).remove)
            for inner in module.modules() if not cell.states else ():
                if inner in fused:
                    cell.inner.append(fused[inner])
                elif inner in cells and cells[inner].states:
                    cell.inner.append(cells[inner])
        for layer in {id(r) for cell in cells.values() for r in cell.inner}:
            for module, returned in fused.items():
                if id(returned) == layer:
                    handles.callback(module.register_forward_hook(returned).remove)
        recorder.on_step(_Edges(cells.values()))
        return handles

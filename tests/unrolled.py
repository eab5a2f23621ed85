"""A recurrent layer as an explicit loop over time in float64: the slow, obvious second implementation.

Autograd watches every state. A state is handed on to the next step as a clone, so the gradient of the clone is what was
carried back over that link, and the rest of the state's whole gradient came from the loss or the layer above.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

GATES = {"LSTM": ("input", "forget", "cell", "output"), "GRU": ("reset", "update", "new")}


@dataclass(frozen=True, slots=True)
class Seen:
    """A state or gate at one time, of the sequences `rows` of the batch; `link` is what the next step gets of it."""

    time: int
    rows: list[int]
    value: Tensor
    link: Tensor | None = None


class Unrolled:
    """One call of an `nn.RNN`, `nn.LSTM` or `nn.GRU`.

    The sequences of a packed batch run one after the other, each as long as it is.

    Args:
        module: Its weights are copied as they are now.
        x: As the module takes it: batched or not, batch first or not, packed.
        hx: As the module takes it.
        masks: For each layer but the last one, what its output is multiplied by: (time, batch, feature).

    Attributes:
        x: A copy of the input that gradients can be had of, (time, batch, feature), padded where it was packed.
        hx: The same of the initial states, h and c: (layer and direction, batch, feature); zeros where not given.
        weights: The same of the weights, by name.
        output: As the module returns it; a packed one padded, (time, batch, feature).
        h_n: As the module returns it.
        c_n: As an LSTM returns it, else None.
    """

    def __init__(
        self,
        module: nn.RNNBase,
        x: Tensor | PackedSequence,
        hx: Tensor | tuple[Tensor, Tensor] | None = None,
        *,
        masks: Sequence[Tensor] = (),
    ) -> None:
        self.mode = module.mode
        # what the kernel is given: with a parametrization the attribute of that name may be something else
        names = [name for layer in module._all_weights for name in layer]
        self.weights = {name: _copy(w) for name, w in zip(names, module._flat_weights, strict=True)}
        self.states = ("h", "c") if self.mode == "LSTM" else ("h",)
        ends = ("", "_reverse") if module.bidirectional else ("",)
        self._layers = [[f"l{layer}{end}" for end in ends] for layer in range(module.num_layers)]
        self.suffixes = [suffix for layer in self._layers for suffix in layer]
        self._masks = [mask.double() for mask in masks]
        self._seen: dict[tuple[str, str], list[Seen]] = {}  # by quantity and name

        packed = isinstance(x, PackedSequence)
        batched = packed or x.ndim == 3
        batch_first = batched and not packed and module.batch_first
        if packed:
            padded, lengths = pad_packed_sequence(x)
        else:
            padded = x.transpose(0, 1) if batch_first else x if batched else x.unsqueeze(1)
            lengths = torch.full((padded.shape[1],), len(padded))
        self.x = _copy(padded)
        self.length, self.batch = padded.shape[:2]
        sizes = (module.proj_size or module.hidden_size, module.hidden_size)
        shapes = [(len(self.suffixes), self.batch, size) for size in sizes[: len(self.states)]]
        given = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
        self._wanting = {state for state, tensor in zip(self.states, given, strict=False) if tensor.requires_grad}
        given = given or [torch.zeros(shape) for shape in shapes]
        self.hx = [_copy(tensor.reshape(shape)) for tensor, shape in zip(given, shapes, strict=True)]

        self._last: dict[tuple[str, str, int], Tensor] = {}  # the final state of one layer, direction and sequence
        columns = []
        for rows, length in _together(lengths.tolist()):
            y = torch.stack(self._stack(rows, length))
            columns.append(torch.cat([y, y.new_zeros(self.length - length, *y.shape[1:])]))
        output = torch.cat(columns, dim=1)
        finals = [
            torch.stack([torch.stack([self._last[state, s, row] for row in range(self.batch)]) for s in self.suffixes])
            for state in self.states
        ]
        if not batched:
            output, finals = output.squeeze(1), [final.squeeze(1) for final in finals]
        self.output = output.transpose(0, 1) if batch_first else output
        self.h_n, self.c_n = finals[0], finals[1] if len(finals) == 2 else None

    def watched(self, loss: Tensor) -> dict[tuple[str, str], Tensor]:
        """What every site has to show, by quantity and name: (time, batch, feature), NaN where a sequence is over.

        An initial state has one time; its gradient is there if the tensor that was given wants one.
        """
        sites = {}
        for (quantity, name), entries in self._seen.items():
            sites[quantity, name] = self._assembled(entries, [entry.value.detach() for entry in entries])
            if quantity == "state":
                total = self._assembled(entries, _gradients(loss, [entry.value for entry in entries]))
                carried = self._assembled(entries, _gradients(loss, [entry.link for entry in entries]))
                sites["state_grad", name] = total
                sites["state_grad", f"{name}.carried"] = carried
                sites["state_grad", f"{name}.local"] = total - carried
        for state, start in zip(self.states, self.hx, strict=True):
            (grad,) = _gradients(loss, [start])
            for k, suffix in enumerate(self.suffixes):
                sites["state", f"{state}0_{suffix}"] = start.detach()[k : k + 1]
                if state in self._wanting:
                    sites["state_grad", f"{state}0_{suffix}"] = grad[k : k + 1]
        return sites

    def _assembled(self, entries: list[Seen], tensors: Sequence[Tensor]) -> Tensor:
        whole = torch.full((self.length, self.batch, tensors[0].shape[-1]), torch.nan, dtype=torch.float64)
        for entry, tensor in zip(entries, tensors, strict=True):
            whole[entry.time, entry.rows] = tensor
        return whole

    def _stack(self, rows: list[int], length: int) -> list[Tensor]:
        """Runs all layers; what the last one returns at each time, (batch, feature)."""
        xs = [self.x[t, rows] for t in range(length)]
        for depth, layer in enumerate(self._layers):
            if depth and self._masks:
                xs = [x * self._masks[depth - 1][t, rows] for t, x in enumerate(xs)]
            xs = [torch.cat(both, dim=-1) for both in zip(*(self._run(s, xs, rows) for s in layer), strict=True)]
        return xs

    def _run(self, suffix: str, xs: list[Tensor], rows: list[int]) -> list[Tensor]:
        """Runs one layer in one direction; h at each time."""
        k = self.suffixes.index(suffix)
        links = [start[k, rows] for start in self.hx]
        hs: dict[int, Tensor] = {}
        times = range(len(xs))
        for t in reversed(times) if suffix.endswith("_reverse") else times:
            states, gates = self._step(suffix, xs[t], *links)
            hs[t] = states[0]
            links = [state.clone() for state in states]
            for name, state, link in zip(self.states, states, links, strict=True):
                self._seen.setdefault(("state", f"{name}_{suffix}"), []).append(Seen(t, rows, state, link))
            for name, gate in zip(GATES.get(self.mode, ()), gates, strict=True):
                self._seen.setdefault(("gate", f"{name}_{suffix}"), []).append(Seen(t, rows, gate))
        for name, state in zip(self.states, states, strict=True):
            self._last |= {(name, suffix, row): state[i] for i, row in enumerate(rows)}
        return [hs[t] for t in times]

    def _step(self, suffix: str, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """The new states h and c, and the gates; formulas as in torch's documentation."""
        of_x = x @ self.weights[f"weight_ih_{suffix}"].T + self.weights.get(f"bias_ih_{suffix}", 0)
        of_h = h @ self.weights[f"weight_hh_{suffix}"].T + self.weights.get(f"bias_hh_{suffix}", 0)
        if self.mode == "RNN_TANH":
            return [torch.tanh(of_x + of_h)], []
        if self.mode == "RNN_RELU":
            return [torch.relu(of_x + of_h)], []
        if self.mode == "GRU":
            (r_x, z_x, n_x), (r_h, z_h, n_h) = of_x.chunk(3, -1), of_h.chunk(3, -1)
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            n = torch.tanh(n_x + r * n_h)
            return [(1 - z) * n + z * h], [r, z, n]
        i, f, g, o = (of_x + of_h).chunk(4, -1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        if f"weight_hr_{suffix}" in self.weights:
            h = h @ self.weights[f"weight_hr_{suffix}"].T
        return [h, c], [i, f, g, o]


def _together(lengths: list[int]) -> list[tuple[list[int], int]]:
    """Which rows of the batch run together, and how long: all, or each on its own."""
    if len(set(lengths)) == 1:
        return [(list(range(len(lengths))), lengths[0])]
    return [([row], length) for row, length in enumerate(lengths)]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True).requires_grad_()


def _gradients(loss: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True, materialize_grads=True)

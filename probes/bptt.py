"""Backpropagation through time, computed once more beside autograd, to see what a fused layer keeps inside.

One layer in one direction, in the order in which it runs. All its states are known, so the gates of all steps follow
from one matrix product each; only the way back is a loop:

    RNN   a = W x + U h′ + b                      h = φ(a)                        h′ is the state before
    LSTM  i, f, o = σ(W x + U h′ + b), g = tanh(…)    c = f∘c′ + i∘g,  h = o∘tanh c  (projected: R h)
    GRU   r, z = σ(W x + U h′ + b), n = tanh(W x + b + r∘(U h′ + b))    h = (1 − z)∘n + z∘h′

What arrives at a state is the local part, from the layer's output at the same step, and the carried part, over the link
from the step after. Tensors are (time, batch, feature); a sequence that ends early has zeros past its end.

Source: Hochreiter & Schmidhuber 1997, appendix A.1 (with Gers et al. 2000's forget gate); Cho et al. 2014, eq. 5 to 8.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_WORTH_PACKING = 1 << 15  # elements of a weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The parameters of one layer in one direction, by torch's names; None without biases or projection."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one layer in one direction had to do with.

    Attributes:
        x: Its input.
        h: Its states, after each step.
        h0: The state before the first step, (batch, feature).
        c0: The same of an LSTM's cell.
        local: ∂L/∂h over the output sequence.
        h_end: The part of ∂L/∂h that came over the final state, at the last step of each sequence; None for none.
        c_end: The same of an LSTM's cell.
        h_next: The part that came from the next call, which goes on from the final state; None for none.
        c_next: The same of an LSTM's cell.
        running: 1 where a sequence is running, else 0, (time, batch, 1); None where all run to the end.
    """

    x: Tensor
    h: Tensor
    h0: Tensor
    c0: Tensor | None
    local: Tensor
    h_end: Tensor | None = None
    c_end: Tensor | None = None
    h_next: Tensor | None = None
    c_next: Tensor | None = None
    running: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One of the layer's states: h, or an LSTM's c.

    Attributes:
        value: After each step.
        local: The part of its gradient from the same step.
        carried: The part over the link from the next step.
        total: Their sum, the whole gradient.
        first: Gradient of the state before the first step, (batch, feature).
    """

    value: Tensor
    local: Tensor
    carried: Tensor
    total: Tensor
    first: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """What happened inside.

    Attributes:
        states: "h", and "c" of an LSTM.
        gates: By name, after their nonlinearity.
        again: h, computed again from the states before: where it differs from the layer's own, nothing here is right.
        weight: The input's weight, for `input_grad`.
        slopes: ∂L over what the input's weight gives.
    """

    states: Mapping[str, State]
    gates: Mapping[str, Tensor]
    again: Tensor
    weight: Tensor
    slopes: Tensor

    def input_grad(self) -> Tensor:
        """∂L/∂x of this layer in this direction."""
        return _linear(self.weight.T)(self.slopes.flatten(2))


GATES: Mapping[str, tuple[str, ...]] = {
    "RNN_TANH": (),
    "RNN_RELU": (),
    "LSTM": ("input", "forget", "cell", "output"),
    "GRU": ("reset", "update", "new"),
}


def unroll(mode: str, weights: Weights, given: Given) -> Unrolled:
    """Everything inside of one layer in one direction; `mode` is a key of `GATES`."""
    before = torch.cat([given.h0.unsqueeze(0), given.h[:-1]])
    if mode == "GRU":
        return _gru(weights, given, before)
    both = torch.cat([given.x, before], 2)
    bias = weights.bias_ih + weights.bias_hh if weights.bias_ih is not None and weights.bias_hh is not None else None
    pre = _linear(torch.cat([weights.ih, weights.hh], 1), bias)(both)
    return _lstm(weights, given, pre) if mode == "LSTM" else _rnn(mode, weights, given, pre)


def _rnn(mode: str, weights: Weights, given: Given, pre: Tensor) -> Unrolled:
    again = pre.tanh_() if mode == "RNN_TANH" else pre.relu_()
    slope = 1 - given.h.square() if mode == "RNN_TANH" else (given.h > 0).to(given.h.dtype)
    slopes = _running(slope, given).unsqueeze(2)
    state = _back(given, weights.hh, slopes, None)
    return Unrolled(states={"h": state}, gates={}, again=again, weight=weights.ih, slopes=slopes)


def _gru(weights: Weights, given: Given, before: Tensor) -> Unrolled:
    from_input = _linear(weights.ih, weights.bias_ih)(given.x).unflatten(-1, (3, -1))
    from_state = _linear(weights.hh, weights.bias_hh)(before).unflatten(-1, (3, -1))
    r, z = (from_input[:, :, :2] + from_state[:, :, :2]).sigmoid_().unbind(2)
    inner = from_state[:, :, 2]
    n = torch.addcmul(from_input[:, :, 2], r, inner).tanh_()
    again = torch.lerp(n, before, z)
    slopes = torch.empty_like(from_state)  # ∂h over what U h′ gives, for r, z and n
    to_r, to_z, to_n = slopes.unbind(2)
    to_new = (1 - z) * (1 - n.square())
    torch.mul(to_new, r, out=to_n)
    torch.mul(to_n * inner, 1 - r, out=to_r)
    torch.mul(before - n, z * (1 - z), out=to_z)
    slopes = _running(slopes, given)
    state = _back(given, weights.hh, slopes, _running(z, given))
    slopes[:, :, 2] = _running(to_new, given) * state.total  # the input's share of n does not go through r
    return Unrolled(
        states={"h": state}, gates={"reset": r, "update": z, "new": n}, again=again, weight=weights.ih, slopes=slopes
    )


def _back(given: Given, hh: Tensor, slopes: Tensor, kept: Tensor | None) -> State:
    """The way back through one state; turns `slopes` into ∂L over what the recurrent weight gives.

    Args:
        given: Of the layer.
        hh: The recurrent weight.
        slopes: ∂h over what the recurrent weight gives, (time, batch, gate, feature).
        kept: ∂h/∂h′ beside the weight; None for none.
    """
    end, following = _at_ends(given.h_end, given), _at_ends(given.h_next, given)
    local = _sum(given.local, end)
    incoming = _sum(local, following)
    total, back = torch.empty_like(incoming), _linear(hh.T)
    flat, shares = slopes.flatten(2).unbind(), kept.unbind() if kept is not None else None
    links = [torch.zeros_like(given.h0)]  # over the link into each state, from the one after the last step on
    steps = zip(incoming.unbind(), total.unbind(), slopes.unbind(), strict=True)
    for t, (here, whole, slope) in reversed(list(enumerate(steps))):
        torch.add(here, links[-1], out=whole)
        slope.mul_(whole.unsqueeze(1))
        links.append(back(flat[t]))
        if shares is not None:
            links[-1].addcmul_(whole, shares[t])
    return _state(given.h, total, local, links, following)


def _lstm(weights: Weights, given: Given, pre: Tensor) -> Unrolled:
    assert given.c0 is not None
    pre = pre.unflatten(-1, (4, -1))
    pre[:, :, :2].sigmoid_()
    pre[:, :, 2].tanh_()
    pre[:, :, 3].sigmoid_()
    i, f, g, o = pre.unbind(2)
    cells = torch.empty_like(i)
    cell, new = given.c0, i * g
    for at, forget, write in zip(cells.unbind(), f.unbind(), new.unbind(), strict=True):
        cell = torch.addcmul(write, forget, cell, out=at)
    squashed = cells.tanh()
    hidden = o * squashed
    again = hidden if weights.hr is None else _linear(weights.hr)(hidden)

    slopes = torch.empty_like(pre)  # ∂c over what U h′ gives for i, f, g; ∂(o∘tanh c) for o
    to_i, to_f, to_g, to_o = slopes.unbind(2)
    torch.addcmul(new, new, i, value=-1, out=to_i)  # g i (1 − i), and so on: fresh memory costs more than arithmetic
    torch.mul(cells[:-1], f[1:], out=to_f[1:])
    torch.mul(given.c0, f[0], out=to_f[0])
    torch.addcmul(to_f, to_f, f, value=-1, out=to_f)
    torch.addcmul(i, new, g, value=-1, out=to_g)
    torch.addcmul(hidden, hidden, o, value=-1, out=to_o)
    slopes = _running(slopes, given)
    kept = _running(f, given)
    through = _running(torch.addcmul(o, hidden, squashed, value=-1), given)  # ∂(o∘tanh c)/∂c

    h_end, c_end, h_next, c_next = (
        _at_ends(part, given) for part in (given.h_end, given.c_end, given.h_next, given.c_next)
    )
    local = _sum(given.local, h_end)
    incoming = _sum(local, h_next)
    h_total, c_total, back = torch.empty_like(incoming), torch.empty_like(cells), _linear(weights.hh.T)
    h_links, c_links = [torch.zeros_like(given.h0)], [torch.zeros_like(given.c0)]
    by_cell, by_output, flat = slopes[:, :, :3].unbind(), slopes[:, :, 3].unbind(), slopes.flatten(2).unbind()
    h_here, h_whole, c_whole = incoming.unbind(), h_total.unbind(), c_total.unbind()
    shares, bridge = kept.unbind(), through.unbind()
    c_here = (c_end if c_next is None else _sum(c_next, c_end)) if c_end is not None or c_next is not None else None
    for t in reversed(range(len(h_here))):
        whole = unprojected = torch.add(h_here[t], h_links[-1], out=h_whole[t])
        if weights.hr is not None:
            unprojected = whole @ weights.hr
        cell = torch.addcmul(c_links[-1], unprojected, bridge[t], out=c_whole[t])
        if c_here is not None:
            cell += c_here[t]
        by_cell[t].mul_(cell.unsqueeze(1))
        by_output[t].mul_(unprojected)
        h_links.append(back(flat[t]))
        c_links.append(cell * shares[t])
    through_h = h_total if weights.hr is None else h_total @ weights.hr
    return Unrolled(
        states={
            "h": _state(given.h, h_total, local, h_links, h_next),
            "c": _state(cells, c_total, _sum(through.mul_(through_h), c_end), c_links, c_next),
        },
        gates={"input": i, "forget": f, "cell": g, "output": o},
        again=again,
        weight=weights.ih,
        slopes=slopes,
    )


def _state(value: Tensor, total: Tensor, local: Tensor, links: list[Tensor], following: Tensor | None) -> State:
    carried = _sum(torch.stack(links[-2::-1]), following)
    return State(value=value, local=local, carried=carried, total=total, first=links[-1])


def _sum(x: Tensor, y: Tensor | None) -> Tensor:
    return x if y is None else x + y


def _linear(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """The product x ↦ x Wᵀ + b, of whatever is in front of the last axis.

    On a CPU by oneDNN with packed weights, as the fused layers do it: torch's own products of float32 go to MKL, which
    takes twice as long on processors that are not Intel's, and three times in the loop. For small matrices it is not
    worth the packing.
    """
    onednn = weight.is_cpu and weight.dtype is torch.float32 and torch.backends.mkldnn.is_available()
    if not onednn or weight.numel() < _WORTH_PACKING:
        return lambda x: torch.nn.functional.linear(x, weight, bias)
    multiply = torch.ops.mkldnn._linear_pointwise
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def product(x: Tensor) -> Tensor:
        y: Tensor = multiply(x.reshape(-1, x.shape[-1]), packed, bias, "none", [], "")
        return y.view(*x.shape[:-1], -1)

    return product


def _running(x: Tensor, given: Given) -> Tensor:
    """`x` with zeros past the end of each sequence, so that nothing comes back from there."""
    if given.running is None:
        return x
    return x * (given.running if x.ndim == 3 else given.running.unsqueeze(2))


def _at_ends(end: Tensor | None, given: Given) -> Tensor | None:
    """(batch, feature) of the final states, at the last running step of each sequence, as (time, batch, feature)."""
    if end is None:
        return None
    spread = end.new_zeros((len(given.x), *end.shape))
    if given.running is None:
        spread[-1] = end
    else:
        last = given.running.sum(0).squeeze(-1).long() - 1
        spread[last, torch.arange(end.shape[0], device=end.device)] = end
    return spread

"""What happens inside of torch's recurrent layers, at each step of the sequence.

A fused `nn.RNN`, `nn.LSTM` or `nn.GRU` is one call: what autograd hands to its output sequence is only the local part
of ∂L/∂h_t, and of its lower layers and its cells nothing is seen at all. The training step stays as it is, to the last
bit and kernel. The hooks keep what went in and what came out, without its graph, and once the gradients of the outputs
are there, at the end of the same backward and so before any optimizer moves the weights, `bptt` goes the way again:

    forward pre-hook    keep the inputs, and the random state that dropout between the layers will start from
    forward hook        keep the outputs, a hook on the node of the graph that made each
    node pre-hook       keep ∂L/∂y, ∂L/∂h_n, ∂L/∂c_n
    end of backward     lower layers' outputs again, then from the last layer to the first: states, gates, gradients

What is computed again must give what the layer has returned; where it does not, the trace says so.
"""

import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target, rarely
from gradscope.probes.bptt import GATES, Given, Unrolled, Weights, unroll
from gradscope.probes.sequence import Sequence
from gradscope.records import Quantity, Statistic

_LARGEST_MATRIX = 512  # rows; the eigenvalues of larger ones take seconds
_DIFFERENT = 0.01  # rms of the difference to the layer's own output, relative; TF32 and rounding stay below a tenth
_DIFFERENT_16_BIT = 0.05
_ROUNDING = 100  # machine epsilons; a part of a gradient that is smaller is what two ways of adding up differ by


class Recurrent(Probe):
    """States, gates and ∂L/∂h_t, ∂L/∂c_t of every layer, direction and time step of fused recurrent layers."""

    name = "recurrent"
    quantities = frozenset({Quantity.STATE, Quantity.STATE_GRAD, Quantity.GATE})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward pre-hook and a forward hook on each recurrent layer."""
        handles = ExitStack()
        for name, module in target.modules.items():
            if isinstance(module, nn.RNNBase) and module.mode in GATES:
                layer = _Layer(recorder, name)
                recorder.on_step(layer)
                handles.callback(module.register_forward_pre_hook(_Before(layer), with_kwargs=True).remove)
                handles.callback(module.register_forward_hook(_After(layer)).remove)
        return handles


def recurrent_mode(module: nn.Module) -> str:
    """Mode "RNN_TANH", "RNN_RELU", "LSTM" or "GRU" of a recurrent layer or cell of torch's; "" of any other module."""
    match module:
        case nn.RNNBase():
            return str(module.mode)
        case nn.RNNCell():
            return f"RNN_{module.nonlinearity.upper()}"
        case nn.LSTMCell():
            return "LSTM"
        case nn.GRUCell():
            return "GRU"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a call is given: the sequence, the states to start with (none by default), and the random state."""

    x: object
    states: tuple[Tensor, ...]
    random: Tensor | None


@dataclass(eq=False, slots=True)
class _Layer:
    """What the calls of one recurrent module share; also told of the steps.

    Attributes:
        given: Inputs of the call that is running.
        last: The call before in this step, and the final states that it returned, with their versions.
        records: Recorded steps so far.
        told: An event has said that the figures are approximate.
    """

    recorder: Recorder
    name: str
    given: "_Inputs | None" = None
    last: "tuple[weakref.ref[_Call], list[tuple[weakref.ref[Tensor], int]]] | None" = None
    records: int = 0
    told: bool = False
    sites: dict[tuple[Quantity, str], int] = field(default_factory=dict)

    def begin(self) -> None:
        """The first forward of the step is about to run."""
        self.last = None

    def end(self) -> None:
        """The step is over."""
        self.records += 1

    def register(self, module: nn.RNNBase) -> None:
        """Registers the states' sites from the first layer on: what the way back emits begins with the last."""
        if self.sites:
            return
        for layer in range(module.num_layers):
            for suffix in (f"l{layer}", f"l{layer}_reverse")[: 1 + module.bidirectional]:
                for name in ("h", "c")[: 1 + (module.mode == "LSTM")]:
                    self.site(Quantity.STATE, f"{name}_{suffix}")
                    for part in ("", ".local", ".carried"):
                        self.site(Quantity.STATE_GRAD, f"{name}_{suffix}{part}")

    def goes_on_from(self, states: tuple[Tensor, ...]) -> "_Call | None":
        """The last call of this step, if what starts with `states` goes on where that one ended; only one can."""
        if self.last is None or not states:
            return None
        call, ends = self.last[0](), [(end(), version) for end, version in self.last[1]]
        if call is None or any(s is not end or s._version != v for s, (end, v) in zip(states, ends, strict=True)):
            return None
        self.last = None
        return call

    def site(self, quantity: Quantity, name: str) -> int:
        """Index of a site of this module."""
        known = self.sites.get((quantity, name))
        if known is None:
            known = self.sites[quantity, name] = self.recorder.site(self.name, quantity, name)
        return known


class _Before(ForwardHook):
    """Keeps what the layer is given."""

    __slots__ = ("layer",)

    def __init__(self, layer: _Layer) -> None:
        super().__init__(Recurrent.name, layer.recorder)
        self.layer = layer

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        assert isinstance(module, nn.RNNBase)
        assert isinstance(more, Mapping)
        x, states = (*args, *(more[key] for key in ("input", "hx") if key in more), None)[:2]
        drops = module.training and 0 < module.dropout < 1 and module.num_layers > 1
        random = torch.get_rng_state() if drops and next(module.parameters()).is_cpu else None
        self.layer.given = _Inputs(x=x, states=_pair(states), random=random)
        return 1


class _After(ForwardHook):
    """Keeps what the layer has returned, and waits for its gradients."""

    __slots__ = ("layer",)

    def __init__(self, layer: _Layer) -> None:
        super().__init__(Recurrent.name, layer.recorder)
        self.layer = layer

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        assert isinstance(module, nn.RNNBase)
        layer = self.layer
        given, layer.given = layer.given, None
        if given is None or not isinstance(more, tuple):
            return 0  # the pre-hook was not there yet, or a subclass returns something of its own
        layer.recorder.completed(layer.name)
        layer.register(module)
        call = _Call(layer, module, given, (more[0], more[1]), self.time)
        return call.sequence.length


class _Call:
    """One call of a recurrent layer: what went in, what came out, what came back.

    Nothing is computed before its gradients are there.
    """

    def __init__(
        self, layer: _Layer, module: nn.RNNBase, given: "_Inputs", output: tuple[object, object], start: int
    ) -> None:
        self.layer, self.module, self.start = layer, module, start
        self.step, self.forward = layer.recorder.step, layer.recorder.forward
        self._next: list[Tensor] = []  # ∂L over the states that the call which goes on from here began with
        self._random = given.random
        y, ends = output[0], _pair(output[1])
        x = given.x
        assert isinstance(x, Tensor | PackedSequence)
        self.sequence = Sequence.of(x, batch_first=module.batch_first)
        if isinstance(x, PackedSequence) and isinstance(y, PackedSequence):
            x, y = x.data, y.data
        assert isinstance(x, Tensor)
        assert isinstance(y, Tensor)
        self._x, self._y, self._ends = x.detach(), y.detach(), [end.detach() for end in ends]
        self._versions = x._version, y._version
        self._starts = [state.detach() for state in given.states]
        self._starts_wanted = [state.requires_grad for state in given.states] or [False, False]
        self._before = layer.goes_on_from(given.states)
        self._mark: int | None = None
        self._grads: dict[str, Tensor] = {}
        for name, tensor in zip(("y", "h", "c"), (y, *ends), strict=False):
            if tensor.grad_fn is not None:  # not a hook on the tensor: of those the user's own may come later
                tensor.grad_fn.register_prehook(partial(self._receive, name, tensor.output_nr))
        layer.last = weakref.ref(self), [(weakref.ref(end), end._version) for end in ends]

    # ---------------------------------------------------------------- backward

    def _receive(self, name: str, number: int, grads: tuple[Tensor | None, ...]) -> None:
        """A gradient of what the layer returned, as it goes into the layer; None for what was not used."""
        recorder, grad = self.layer.recorder, grads[number]
        if grad is None or not recorder.on or self.step != recorder.step:
            return
        try:
            mark = recorder.mark_backward(self.step, self.forward)
            if mark != self._mark:
                self._mark = mark
                self._grads.clear()
                torch.autograd.Variable._execution_engine.queue_callback(self._finish)
            self._grads[name] = grad.detach()
        except Exception as error:
            recorder.failed(Recurrent.name, error)

    def _finish(self) -> None:
        """The backward is over: the gradients are complete, and no optimizer has moved the weights yet."""
        recorder = self.layer.recorder
        if not recorder.on or self.step != recorder.step or self._mark is None:
            return
        try:
            with torch.no_grad(), torch.autocast(self._x.device.type, enabled=False):
                self._go_back(self._mark)
        except Exception as error:
            recorder.failed(Recurrent.name, error)
        finally:
            self._grads.clear()
            self._next.clear()

    def _go_back(self, mark: int) -> None:
        layers, directions = self.module.num_layers, 2 if self.module.bidirectional else 1
        if self._x._version != self._versions[0]:
            self._tell("not-observed", "what it was given was overwritten in place, so its steps cannot be followed")
            return
        sequence, dtype = self.sequence, torch.float64 if self._y.dtype is torch.float64 else torch.float32
        x, y = sequence.bring(self._x, dtype), sequence.bring(self._y, dtype)
        intact = self._y._version == self._versions[1]
        local = sequence.bring(self._grads["y"], dtype) if "y" in self._grads else torch.zeros_like(y)
        starts = [sequence.bring_state(start, dtype) for start in self._starts] or self._zeros(y)
        ends, following = self._ends_of(dtype)
        weights = [self._weights(i, dtype) for i in range(layers * directions)]
        masks = self._masks(y)

        inputs, outputs = [x], []  # outputs in the order in which each direction runs
        for layer in range(layers):
            for direction in range(directions):
                i = layer * directions + direction
                if layer == layers - 1 and intact:
                    h = sequence.turned(y.chunk(directions, 2)[direction], direction)
                else:
                    first = [start[i] for start in starts]
                    h = _again(self.module.mode, weights[i], sequence.turned(inputs[layer], direction), first)
                    h = sequence.masked(h)
                outputs.append(h)
            if layer < layers - 1:
                above = torch.cat([sequence.turned(h, d) for d, h in enumerate(outputs[-directions:])], 2)
                inputs.append(above * masks[layer] if masks else above)

        firsts = [torch.zeros_like(start) for start in starts]
        for layer in reversed(range(layers)):
            below: Tensor | None = None
            for direction, part in enumerate(local.chunk(directions, 2)):
                i = layer * directions + direction
                given = Given(
                    x=sequence.turned(inputs[layer], direction),
                    h=outputs[i],
                    h0=starts[0][i],
                    c0=starts[1][i] if len(starts) > 1 else None,
                    local=sequence.turned(part, direction),
                    **{f"{name}_end": end[i] for name, end in ends.items()},
                    **{f"{name}_next": part[i] for name, part in following.items()},
                    running=sequence.running,
                )
                inside = unroll(self.module.mode, weights[i], given)
                if layer == layers - 1:
                    self._verify(inside, i, h=outputs[i] if intact else None)
                self._emit(i, inside, [start[i] for start in starts], mark)
                for handed_on, state in zip(firsts, inside.states.values(), strict=True):
                    handed_on[i] = state.first
                self._emit_spectrum(i, weights[i])
                if layer:
                    grad = sequence.turned(inside.input_grad(), direction)
                    below = grad if below is None else below + grad
            if below is not None:
                local = below * masks[layer - 1] if masks else below
        if self._before is not None:
            self._before.follow([sequence.restore_state(first) for first in firsts])

    def follow(self, firsts: list[Tensor]) -> None:
        """The next call hands back ∂L over the states that it went on from, in the order of the batch."""
        self._next = firsts

    def _ends_of(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """∂L over the final states: the part from the loss, and the part from the next call, by name."""
        bring = self.sequence.bring_state
        ends = {name: bring(grad, dtype) for name, grad in self._grads.items() if name != "y"}
        following = {name: bring(part, dtype) for name, part in zip("hc", self._next, strict=False) if name in ends}
        for name, part in following.items():
            rest = ends[name] - part
            rounding = _ROUNDING * torch.finfo(self._y.dtype).eps * torch.linalg.vector_norm(ends[name])
            if torch.linalg.vector_norm(rest) > rounding:
                ends[name] = rest
            else:  # the next call alone had it
                del ends[name]
        return ends, following

    # ---------------------------------------------------------------- what the layer is made of

    def _zeros(self, y: Tensor) -> list[Tensor]:
        """The states that a call starts with by default."""
        module = self.module
        count = module.num_layers * (2 if module.bidirectional else 1)
        sizes = [module.proj_size or module.hidden_size] + [module.hidden_size] * (module.mode == "LSTM")
        return [y.new_zeros(count, y.shape[1], size) for size in sizes]

    def _weights(self, index: int, dtype: torch.dtype) -> Weights:
        suffix = self._suffix(index)
        found = {
            name: getattr(self.module, f"{prefix}_{suffix}", None)
            for name, prefix in (
                ("ih", "weight_ih"),
                ("hh", "weight_hh"),
                ("bias_ih", "bias_ih"),
                ("bias_hh", "bias_hh"),
                ("hr", "weight_hr"),
            )
        }
        return Weights(**{name: w.detach().to(dtype) for name, w in found.items() if w is not None})

    def _suffix(self, index: int) -> str:
        """Suffix "l0", "l0_reverse", "l1", … as in the names of the parameters."""
        if not self.module.bidirectional:
            return f"l{index}"
        return f"l{index // 2}" + "_reverse" * (index % 2)

    def _masks(self, y: Tensor) -> list[Tensor]:
        """What dropout has multiplied each layer's output but the last with; empty where it did nothing.

        Drawn again from the random state before the call, by the same calls as torch's own. On an accelerator that
        state lies elsewhere, and cuDNN's inside of it: there the expected mask, 1, stands in.
        """
        module = self.module
        count = module.num_layers - 1 if module.training and module.dropout else 0
        if count and module.dropout == 1:
            return [torch.zeros_like(y)] * count
        if not count or self._random is None:
            return []
        generator, keep = torch.Generator(), 1 - module.dropout
        generator.set_state(self._random)
        shape = *self._y.shape[:-1], y.shape[2]
        if module.batch_first and len(shape) == 3:  # inside, time comes first
            shape = shape[1], shape[0], shape[2]
        drawn = [
            torch.empty(shape, dtype=self._y.dtype).bernoulli_(keep, generator=generator).div_(keep)
            for _ in range(count)
        ]
        return [self.sequence.bring(mask, y.dtype, time_first=True) for mask in drawn]

    # ---------------------------------------------------------------- what is told

    def _verify(self, inside: Unrolled, index: int, h: Tensor | None) -> None:
        """Says so, once, if what was computed again is not what the layer returned."""
        again = self.sequence.masked(inside.again)
        if h is None:  # the output was overwritten in place: the final state has to do
            again, h = self.sequence.last(again), self.sequence.bring_state(self._ends[0], again.dtype)[index]
        size, off = torch.stack([torch.linalg.vector_norm(h), torch.linalg.vector_norm(again - h)]).tolist()
        bound = _DIFFERENT if self._y.dtype.itemsize > 2 else _DIFFERENT_16_BIT
        if off > bound * size:
            why = ""
            if self.module.training and self.module.dropout and self.module.num_layers > 1:
                why = "; the mask of its dropout between the layers cannot be had here"
            self._tell(
                "approximate",
                f"states and gradients through time are approximate: computed again, the output differs by"
                f" {off / size if size else 1:.0%}{why}",
            )

    def _tell(self, kind: str, what: str) -> None:
        if not self.layer.told:
            self.layer.told = True
            self.layer.recorder.tell(kind, self.layer.name, f"{self.layer.name or 'the model'}: {what}.")

    def _emit(self, index: int, inside: Unrolled, starts: list[Tensor], mark: int) -> None:
        """States, gates and gradients of one layer in one direction, at the positions of the sequence."""
        suffix, sequence = self._suffix(index), self.sequence
        reverse = self.module.bidirectional and index % 2

        def emit(quantity: Quantity, name: str, tensor: Tensor, mark: int) -> None:
            site, tensor = self.layer.site(quantity, name), sequence.turned(tensor, reverse)
            for first, stop, rows in sequence.runs:
                self.layer.recorder.emit_slices(site, tensor[first:stop, :rows], 0, self.start + first, mark=mark)

        def emit_first(quantity: Quantity, name: str, tensor: Tensor, mark: int) -> None:
            site = self.layer.site(quantity, name)
            self.layer.recorder.emit_slices(site, tensor.unsqueeze(0), 0, self.start, mark=mark)

        for (name, state), start, wanted in zip(inside.states.items(), starts, self._starts_wanted, strict=False):
            emit(Quantity.STATE, f"{name}_{suffix}", state.value, self.forward)
            for part, tensor in (("", state.total), (".local", state.local), (".carried", state.carried)):
                emit(Quantity.STATE_GRAD, f"{name}_{suffix}{part}", tensor, mark)
            if self._before is None:
                emit_first(Quantity.STATE, f"{name}0_{suffix}", start, self.forward)
                if wanted:
                    emit_first(Quantity.STATE_GRAD, f"{name}0_{suffix}", state.first, mark)
        for name, gate in inside.gates.items():
            emit(Quantity.GATE, f"{name}_{suffix}", gate, self.forward)

    def _emit_spectrum(self, index: int, weights: Weights) -> None:
        """Spectral radius and norm of each recurrent matrix, seldom: they cost a lot and change slowly."""
        suffix, gates = self._suffix(index), GATES[self.module.mode]
        if self.start or not rarely(self.layer.records):
            return
        matrices = weights.hh.chunk(max(len(gates), 1))
        for i, matrix in enumerate(matrices):
            if weights.hr is not None:
                matrix = weights.hr @ matrix
            if len(matrix) > _LARGEST_MATRIX or not matrix.isfinite().all():
                continue
            name = (Quantity.GATE, f"{gates[i]}_{suffix}") if gates else (Quantity.STATE, f"h_{suffix}")
            site, matrix = self.layer.site(*name), matrix.cpu()
            self.layer.recorder.derive(site, Statistic.SPECTRAL_RADIUS, torch.linalg.eigvals(matrix).abs().max())
            self.layer.recorder.derive(site, Statistic.SPECTRAL_NORM, torch.linalg.svdvals(matrix).max())


def _again(mode: str, weights: Weights, x: Tensor, starts: list[Tensor]) -> Tensor:
    """The states of one layer in one direction, by the same fused kernel once more."""
    parameters = [w for w in (weights.ih, weights.hh, weights.bias_ih, weights.bias_hh, weights.hr) if w is not None]
    first = [start.unsqueeze(0).contiguous() for start in starts]
    run: Callable[..., tuple[Tensor, ...]] = getattr(torch._VF, mode.lower())
    state, has_bias = first if len(first) > 1 else first[0], weights.bias_ih is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cuDNN would like the weights in one piece
        return run(x.contiguous(), state, parameters, has_bias, 1, 0.0, False, False, False)[0]


def _pair(states: object) -> tuple[Tensor, ...]:
    """One state, or an LSTM's two."""
    found = (states,) if isinstance(states, Tensor) else tuple(states) if isinstance(states, tuple | list) else ()
    return tuple(state for state in found if isinstance(state, Tensor))

"""What happens inside of torch's recurrent layers, at each step of the sequence.

A fused `nn.RNN`, `nn.LSTM` or `nn.GRU` is one call: what autograd hands to its output sequence is only the local part
of ∂L/∂h_t, and of its lower layers and its cells nothing is seen at all. The training step stays as it is, to the last
bit and kernel. The hooks keep what went in and what came out, without its graph, and once the gradients of the outputs
are there, at the end of the same backward and so before an optimizer moves the weights, `bptt` goes the way again:

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

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target, aside, rarely
from gradscope.probes.bptt import GATES, Given, Unrolled, Weights, unroll
from gradscope.probes.names import bare_modules
from gradscope.probes.sequence import Sequence
from gradscope.records import Quantity, Statistic

_LARGEST_MATRIX = 512  # rows; the eigenvalues of larger ones take seconds
_DIFFERENT = 0.01  # rms of the difference to the layer's own output, relative; TF32 and rounding stay below a tenth
_DIFFERENT_16_BIT = 0.05
_WRONG = 0.5  # beyond, the layer does something else: what was computed says nothing of it
_ROUNDING = 100  # machine epsilons; a part of a gradient that is smaller is what two ways of adding up differ by


class Recurrent(Probe):
    """States, gates and ∂L/∂h_t, ∂L/∂c_t of every layer, direction and time step of fused recurrent layers."""

    name = "recurrent"
    quantities = frozenset({Quantity.STATE, Quantity.STATE_GRAD, Quantity.GATE})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward pre-hook and a forward hook on each recurrent layer."""
        handles = ExitStack()
        for name, module in bare_modules(target.model).items():
            if isinstance(module, nn.RNNBase) and module.mode in GATES:
                layer = _Layer(recorder, name)
                recorder.on_step(layer, self.name)
                handles.callback(layer.release)
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
    """What a call is given: the sequence, the states to start with (none by default), and the random state.

    The weights only where they are sharded: FSDP2 gathers them for the call and frees them after it.
    """

    x: Tensor | PackedSequence
    states: tuple[Tensor, ...]
    random: Tensor | None
    weights: "dict[str, tuple[Tensor, int]] | None"


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Layer:
    """What the calls of one recurrent module share; also told of the steps.

    Attributes:
        given: Inputs of the call that is running.
        last: The call before in this step, and the final states that it returned, with their versions.
        records: Recorded steps so far.
        told: Kinds of the events that were told of it.
        spectra: Layers and directions whose recurrent matrix was looked at in this step.
    """

    recorder: Recorder
    name: str
    given: "_Inputs | None" = None
    last: "tuple[weakref.ref[_Call], list[tuple[weakref.ref[Tensor], int]]] | None" = None
    records: int = 0
    told: set[str] = field(default_factory=set)
    spectra: set[int] = field(default_factory=set)
    sites: dict[tuple[Quantity, str], int] = field(default_factory=dict)

    def begin(self) -> None:
        """The first forward of the step is about to run."""
        self.release()

    def end(self) -> None:
        """The step is over."""
        self.records += 1
        self.release()

    def release(self) -> None:
        """Lets go of what belongs to one step."""
        self.given = self.last = None
        self.spectra.clear()

    def tell(self, kind: str, what: str) -> None:
        """An event, once for each kind."""
        if kind not in self.told:
            self.told.add(kind)
            self.recorder.tell(kind, self.name, f"{self.name or 'the model'}: {what}.")

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
                for gate in GATES[module.mode]:
                    self.site(Quantity.GATE, f"{gate}_{suffix}")

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


class _LayerHook(ForwardHook):
    """A hook before or after the forward of a recurrent layer."""

    __slots__ = ("layer",)

    def __init__(self, layer: _Layer) -> None:
        super().__init__(Recurrent.name, layer.recorder)
        self.layer = layer


class _Before(_LayerHook):
    """Keeps what the layer is given."""

    __slots__ = ()

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        assert isinstance(module, nn.RNNBase)
        assert isinstance(more, Mapping)
        x, states = (*args, *(more[key] for key in ("input", "hx") if key in more), None)[:2]
        if not isinstance(x, Tensor | PackedSequence) or not _fit(module, states):
            self.layer.tell(
                "not-observed", "it takes something else than torch's layers, so its steps are not followed"
            )
            return 0
        drops = module.training and 0 < module.dropout < 1 and module.num_layers > 1
        random = torch.get_rng_state() if drops and next(module.parameters()).is_cpu else None
        weights = _parameters(module, keep=True) if self.recorder.sharded else None
        self.layer.given = _Inputs(x=x, states=_pair(states), random=random, weights=weights)
        return 1


class _After(_LayerHook):
    """Keeps what the layer has returned, and waits for its gradients."""

    __slots__ = ()

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        assert isinstance(module, nn.RNNBase)
        layer = self.layer
        given, layer.given = layer.given, None
        if given is None:  # told in the pre-hook
            return 0
        if not isinstance(more, tuple) or not _fit(module, more[1]):
            layer.tell("not-observed", "it returns something else than torch's layers, so its steps are not followed")
            return 0
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
        # weak: a model that keeps its state keeps the graph, and the graph this; Python's collector cannot see that
        self._layer, self._module, self.start = weakref.ref(layer), weakref.ref(module), start
        self.step, self.forward = layer.recorder.step, layer.recorder.forward
        self._parameters = given.weights or _parameters(module)
        self._next: list[Tensor] = []  # ∂L over the states that the call which goes on from here began with
        self._random = given.random
        x, y, ends = given.x, output[0], _pair(output[1])
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
        self._y_on_base = _made_as(y) is not y
        for name, tensor in zip(("y", "h", "c"), (y, *ends), strict=False):
            made = _made_as(tensor)
            if made.grad_fn is not None:  # not a hook on the tensor: of those the user's own may come later
                made.grad_fn.register_prehook(partial(self._receive, name, made.output_nr, tensor.shape))
        layer.last = weakref.ref(self), [(weakref.ref(end), end._version) for end in ends]

    # ---------------------------------------------------------------- backward

    @property
    def layer(self) -> _Layer:
        """The layer, which lives as long as its hooks."""
        layer = self._layer()
        assert layer is not None
        return layer

    @property
    def module(self) -> nn.RNNBase:
        """The module, which is alive while it is trained."""
        module = self._module()
        assert module is not None
        return module

    def _receive(self, name: str, number: int, shape: torch.Size, grads: tuple[Tensor | None, ...]) -> None:
        """A gradient of what the layer returned, as it goes into the layer; None for what was not used."""
        layer, grad = self._layer(), grads[number]
        if layer is None or grad is None or not layer.recorder.on or self.step != layer.recorder.step:
            return
        recorder = layer.recorder
        try:
            mark = recorder.mark_backward(self.step, self.forward)
            if mark != self._mark:
                self._mark = mark
                self._grads.clear()
                torch.autograd.Variable._execution_engine.queue_callback(self._finish)
            on_base = name == "y" and self._y_on_base and len(shape) == 3
            self._grads[name] = grad.detach() if on_base else grad.detach().reshape(shape)
        except Exception as error:
            recorder.failed(Recurrent.name, error)

    def _finish(self) -> None:
        """The backward is over: the gradients are complete, and no optimizer has moved the weights yet."""
        layer = self._layer()
        if layer is None or not layer.recorder.on or self.step != layer.recorder.step or self._mark is None:
            return
        try:
            with torch.no_grad(), torch.autocast(self._x.device.type, enabled=False):
                aside(self._go_back, self._mark)
        except Exception as error:
            layer.recorder.failed(Recurrent.name, error)
        finally:
            self._grads.clear()
            self._next.clear()

    def _go_back(self, mark: int) -> None:
        layers, directions = self.module.num_layers, 2 if self.module.bidirectional else 1
        if self._x._version != self._versions[0]:
            what = "what it was given was overwritten in place, so its steps cannot be followed"
            self.layer.tell("not-observed", what)
            return
        if any(weight._version != version for weight, version in self._parameters.values()):
            what = "its weights were moved before the backward was over, so its gradients through time are approximate"
            self.layer.tell("approximate", what)
        sequence, dtype = self.sequence, torch.float64 if self._y.dtype is torch.float64 else torch.float32
        x, y = sequence.bring(self._x, dtype), sequence.bring(self._y, dtype)
        intact = self._y._version == self._versions[1]
        local = torch.zeros_like(y)
        if "y" in self._grads:
            local = sequence.bring(self._grads["y"], dtype, time_first=self._y_on_base)
        starts = [sequence.bring_state(start, dtype) for start in self._starts] or self._zeros(y)
        ends, following = self._ends_of(dtype)
        weights = [self._weights(i, dtype) for i in range(layers * directions)]
        masks = self._masks(y)

        inputs, outputs = self._go_forth(x, y if intact else None, starts, weights, masks)

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
                if layer == layers - 1 and not self._is_right(inside, i, h=outputs[i] if intact else None):
                    return
                self._emit(i, inside, [start[i] for start in starts], mark)
                for handed_on, state in zip(firsts, inside.states.values(), strict=True):
                    handed_on[i] = state.first
                self._emit_spectrum(i, weights[i])
                if layer:
                    grad = sequence.turned(inside.input_grad(), direction)
                    below = grad if below is None else below + grad
                del inside, given  # else two layers would be in memory at once
            if below is not None:
                local = below * masks[layer - 1] if masks else below
        if self._before is not None:
            self._before.follow([sequence.restore_state(first) for first in firsts])

    def _go_forth(
        self, x: Tensor, y: Tensor | None, starts: list[Tensor], weights: list[Weights], masks: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The input of each layer, and the states of each layer and direction in the order in which it runs.

        `y` is what the last layer returned, None if it was overwritten since.
        """
        layers, sequence = self.module.num_layers, self.sequence
        directions = len(weights) // layers
        inputs, outputs = [x], []
        for i, weight in enumerate(weights):
            layer, direction = divmod(i, directions)
            if layer == layers - 1 and y is not None:
                h = sequence.turned(y.chunk(directions, 2)[direction], direction)
            else:
                first = [start[i] for start in starts]
                h = _again(self.module.mode, weight, sequence.turned(inputs[layer], direction), first)
                h = sequence.masked(h)
            outputs.append(h)
            if layer < layers - 1 and direction == directions - 1:
                above = h
                if directions > 1:
                    above = torch.cat([sequence.turned(h, d) for d, h in enumerate(outputs[-directions:])], 2)
                inputs.append(above * masks[layer] if masks else above)
        return inputs, outputs

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
            ends[name] = rest * (torch.linalg.vector_norm(rest) > rounding)  # else the next call alone had it
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
            name: self._parameters.get(f"{prefix}_{suffix}")
            for name, prefix in (
                ("ih", "weight_ih"),
                ("hh", "weight_hh"),
                ("bias_ih", "bias_ih"),
                ("bias_hh", "bias_hh"),
                ("hr", "weight_hr"),
            )
        }
        return Weights(**{name: known[0].to(dtype) for name, known in found.items() if known is not None})

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
        generator, keep = torch.Generator("cpu"), 1 - module.dropout
        generator.set_state(self._random)
        shape = *self._y.shape[:-1], y.shape[2]
        if module.batch_first and len(shape) == 3:  # inside, time comes first
            shape = shape[1], shape[0], shape[2]
        drawn = [
            torch.empty(shape, dtype=self._y.dtype, device="cpu").bernoulli_(keep, generator=generator).div_(keep)
            for _ in range(count)
        ]
        return [self.sequence.bring(mask, y.dtype, time_first=True) for mask in drawn]

    # ---------------------------------------------------------------- what is told

    def _is_right(self, inside: Unrolled, index: int, h: Tensor | None) -> bool:
        """Whether what was computed again is, or comes near, what the layer returned; says so, once, if it is not."""
        again = self.sequence.masked(inside.again)
        if h is None:  # the output was overwritten in place: the final state has to do
            again, h = self.sequence.last(again), self.sequence.bring_state(self._ends[0], again.dtype)[index]
        size, off = torch.stack([torch.linalg.vector_norm(h), torch.linalg.vector_norm(again - h)]).tolist()
        differs = f"computed again, its output differs by {off / size if size else 1:.1%}"
        if off > _WRONG * size:
            self.layer.tell("not-observed", f"states and gradients through time cannot be had: {differs}")
            return False
        if off > (_DIFFERENT if self._y.dtype.itemsize > 2 else _DIFFERENT_16_BIT) * size:
            dropped = self.module.training and self.module.dropout and self.module.num_layers > 1
            why = ", as the mask of its dropout between the layers cannot be had here" if dropped else ""
            self.layer.tell("approximate", f"states and gradients through time are approximate: {differs}{why}")
        return True

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
        layer, suffix, gates = self.layer, self._suffix(index), GATES[self.module.mode]
        if index in layer.spectra or not rarely(layer.records):
            return
        layer.spectra.add(index)
        matrices = weights.hh.chunk(max(len(gates), 1))
        for i, matrix in enumerate(matrices):
            if weights.hr is not None:
                matrix = weights.hr @ matrix
            if len(matrix) > _LARGEST_MATRIX or not (matrix := matrix.cpu()).isfinite().all():
                continue
            name = (Quantity.GATE, f"{gates[i]}_{suffix}") if gates else (Quantity.STATE, f"h_{suffix}")
            site = layer.site(*name)
            layer.recorder.derive(site, Statistic.SPECTRAL_RADIUS, torch.linalg.eigvals(matrix).abs().max())
            layer.recorder.derive(site, Statistic.SPECTRAL_NORM, torch.linalg.svdvals(matrix).max())


def _parameters(module: nn.RNNBase, *, keep: bool = False) -> dict[str, tuple[Tensor, int]]:
    """The weights that a call uses, and their versions; copies of them if they will be freed."""
    names, used = module._flat_weights_names, module._flat_weights  # a parametrization must not run again
    found = {name: w.detach() for name, w in zip(names, used, strict=True) if isinstance(w, Tensor)}
    found = {name: w.clone() for name, w in found.items()} if keep else found
    return {name: (w, w._version) for name, w in found.items()}


def _again(mode: str, weights: Weights, x: Tensor, starts: list[Tensor]) -> Tensor:
    """The states of one layer in one direction, by the same fused kernel once more."""
    parameters = [w for w in (weights.ih, weights.hh, weights.bias_ih, weights.bias_hh, weights.hr) if w is not None]
    first = [start.unsqueeze(0).contiguous() for start in starts]
    run: Callable[..., tuple[Tensor, ...]] = getattr(torch._VF, mode.lower())
    state, has_bias = first if len(first) > 1 else first[0], weights.bias_ih is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cuDNN would like the weights in one piece
        return run(x.contiguous(), state, parameters, has_bias, 1, 0.0, False, False, False)[0]


def _made_as(tensor: Tensor) -> Tensor:
    """The tensor that the layer's last operation has made, where `tensor` is a view of the whole of it.

    Of a view that is changed in place autograd goes back by another node. A layer's batched output may be a transposed
    view; all others have the order of their base.
    """
    base = tensor._base
    whole = base is not None and base.grad_fn is not None and base.numel() == tensor.numel()
    return base if whole and base is not None else tensor


def _fit(module: nn.RNNBase, states: object) -> bool:
    """Whether `states` are what a layer of torch takes, none included, or returns."""
    count = module.num_layers * (2 if module.bidirectional else 1)
    sizes = [module.proj_size or module.hidden_size] + [module.hidden_size] * (module.mode == "LSTM")
    found = _pair(states)
    if states is None:
        return True
    return len(found) == len(sizes) and all(
        state.is_floating_point() and state.ndim in (2, 3) and (len(state), state.shape[-1]) == (count, size)
        for state, size in zip(found, sizes, strict=True)
    )


def _pair(states: object) -> tuple[Tensor, ...]:
    """One state, or an LSTM's two."""
    found = (states,) if isinstance(states, Tensor) else tuple(states) if isinstance(states, tuple | list) else ()
    return tuple(state for state in found if isinstance(state, Tensor))

"""Activation functions and attention that the model calls as functions: `F.relu(x)`, `x.sigmoid()`, fused attention.

A call is a site like a module: `layer1.relu#0` is the first place in the code of `layer1` that calls relu, of type
ReLU, so whatever is known of a module of that type is known of the call. The same line after another layer is another
place (a loop over layers), and the same line after the same layer is the same place at the next time (a loop over
time).
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import CodeType, FrameType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import CausalBias

from gradscope import attention
from gradscope.probes.base import ForwardHook, Probe, Recorder, Target
from gradscope.probes.calls import Calls, Watcher, line_of, place_of_call
from gradscope.probes.cuts import Cuts
from gradscope.probes.flow import Ways, ways_of
from gradscope.probes.gates import Gates
from gradscope.probes.gradients import HookedTensors, hooked_tensors
from gradscope.probes.layers import layer_watchers
from gradscope.probes.multihead import MultiheadHook
from gradscope.probes.names import bare_modules
from gradscope.probes.rectifiers import RECTIFYING, rectifies
from gradscope.probes.sharpness import SharpSite
from gradscope.probes.spreads import Spreads
from gradscope.probes.tensors import given_tensors, has_numbers
from gradscope.processes import local
from gradscope.records import Quantity
from gradscope.units import ACTIVATION_FUNCTIONS, ActivationFunction, unit_axis

_MOST_PLACES = 256  # of one function in one module; what comes after counts as the last

_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)
_LOG_SOFTMAX = (F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.special.log_softmax)


class Functional(Probe):
    """Activations and attention called as functions, such as `F.relu(x)`: outputs, gradients, per head how sharp.

    Seen by a mode that is on while a module of the model runs in a recorded step; calls inside of torch's own modules
    are those modules' business, where they are part of the model.
    """

    name = "functional"
    quantities = frozenset({Quantity.OUTPUT, Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places hooks around the forward of each module that can call a function."""
        modules = bare_modules(target.model)
        spreads = Spreads(recorder, self.name, target.model)
        sites, gates = _Sites(recorder, frozenset(map(id, modules.values())), spreads), Gates(recorder)
        watchers: dict[Callable[..., object], Watcher] = {
            **layer_watchers(recorder),
            **gates.watchers(),
            **Cuts(recorder, target).watchers(),
        }
        for function in ACTIVATION_FUNCTIONS:
            watchers |= dict.fromkeys(function.functions, _ActivationCalls(sites, gates, function))
        for call, name in RECTIFYING.items():
            watchers[call] = _RectifyingCalls(sites, gates, ACTIVATION_FUNCTIONS[0], name)
        watchers |= dict.fromkeys(_SOFTMAX, _SoftmaxCalls(sites, "Softmax", "softmax"))
        watchers |= dict.fromkeys(_LOG_SOFTMAX, _Watcher(sites, "LogSoftmax", "log_softmax"))
        fused = _FusedAttentionCalls(sites, "ScaledDotProductAttention", "scaled_dot_product_attention")
        watchers[F.scaled_dot_product_attention] = fused
        calls = Calls(self.name, recorder, watchers)
        recorder.on_step(calls, self.name)
        recorder.on_step(gates, self.name)
        handles = calls.watch(modules)
        for name, module in modules.items():
            for kind, hook in ((nn.MultiheadAttention, MultiheadHook), (nn.Softmax, _SoftmaxHook)):
                if isinstance(module, kind):
                    handle = module.register_forward_pre_hook(hook(self.name, recorder, name), with_kwargs=True)
                    handles.callback(handle.remove)
        handles.callback(sites.hooked.clear)
        return handles


class _Site:
    """One place in the code of a module that calls a function. What is counted is as in `ForwardHook`."""

    __slots__ = (
        "_called", "_passed", "_step", "_unseen", "given", "module", "module_type", "output", "output_grad",
        "sharpness", "time",
    )  # fmt: skip

    def __init__(self, module: str, module_type: str) -> None:
        self.module = module
        self.module_type = module_type
        self._step = -1
        self._called = self._passed = self._unseen = 0
        self.time = 0  # of the running call
        self.output = self.output_grad = self.given = -1  # indices, once there is something to record
        self.sharpness = SharpSite(module)

    def counts(self, recorder: Recorder) -> bool:
        """Another call: whether it is one to record."""
        if self._step != recorder.step:
            self._step = recorder.step
            self._called = self._passed = self._unseen = 0
        if not torch.is_grad_enabled():  # a part that is not trained, or a checkpoint that will call again
            if torch._C._current_graph_task_id() != -1:
                return False  # within another that computes again
            self._passed += 1
            self._unseen += 1
            if self.output < 0:
                recorder.passed_by(self.module)
            return False
        if not (self._called or self._passed) or torch._C._current_graph_task_id() == -1:
            self.time = self._called
            self._called += 1
            return True
        if not self._unseen:  # a checkpoint computes again what was seen
            return False
        self._unseen -= 1
        self.time = self._called + self._unseen
        if not self._unseen:
            self._called += self._passed
            self._passed = 0
        return True


class _Sites:
    """All places that were seen, in modules of the model, whose ids are `own`."""

    def __init__(self, recorder: Recorder, own: frozenset[int], spreads: Spreads) -> None:
        self.recorder = recorder
        self.spreads = spreads
        self._own = own
        self.hooked: HookedTensors = hooked_tensors(recorder)
        self.ways: Ways = ways_of(recorder)
        self._known: dict[tuple[str, str, CodeType, int, str | int], _Site] = {}
        self._last: dict[tuple[str, str], tuple[int, _Site]] = {}

    def at(self, owner: str, frame: FrameType, module_type: str, function: str) -> _Site | None:
        """The place at which `owner` is calling `function`; None where the call does not count."""
        place = place_of_call(frame, self._own)
        if place is None:
            return None
        key = (owner, module_type, *place, self.recorder.liveness.layer)
        site = self._known.get(key)
        if site is None:
            site = self._known[key] = self._new(owner, module_type, function)
            code, instruction = place
            self.recorder.written(site.module, code.co_filename, line_of(code, instruction))
        return site if site.counts(self.recorder) else None

    def _new(self, owner: str, module_type: str, function: str) -> _Site:
        number, last = self._last.get((owner, module_type), (0, None))
        if last is not None and number == _MOST_PLACES:
            return last
        site = _Site(f"{owner}.{function}#{number}" if owner else f"{function}#{number}", module_type)
        self._last[owner, module_type] = number + 1, site
        return site


class _Watcher:
    """Records what a function returns, and its gradient.

    Attributes:
        module_type: Class of torch.nn that does the same.
        function: The name of the function.
    """

    takes_gradient: ClassVar[bool] = False  # whether the gradient of what it is given is recorded

    def __init__(self, sites: _Sites, module_type: str, function: str) -> None:
        self.sites = sites
        self.recorder = sites.recorder
        self.module_type = module_type
        self.function = function

    def before(
        self, owner: str, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> "_Site | None":
        """Hooks the input: the function may change it in place."""
        site = self.sites.at(owner, frame, self.module_type, self.function)
        given = first(args, kwargs)
        if site is not None and self.sites.ways.on:
            self.sites.ways.given(site.module, site.time, given_tensors(args, kwargs))
        if site is not None and self.takes_gradient and isinstance(given, Tensor) and given.requires_grad:
            if site.given < 0:
                site.given = self.recorder.site(site.module, Quantity.INPUT_GRAD)
            self.sites.hooked.hook(site.given, site.time, given, None)
        return site

    def after(self, noted: object, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> None:
        """Emits the output and hooks it."""
        if not isinstance(noted, _Site) or not isinstance(result, Tensor):
            return
        if result.is_complex() or not has_numbers(result):
            return
        site, recorder = noted, self.recorder
        self.sites.ways.returned(site.module, site.time, (("", result),))
        if site.output < 0:
            recorder.completed(site.module, site.module_type)
            site.output = recorder.site(site.module, Quantity.OUTPUT)
            recorder.computes_in(site.module, result.dtype)
        self.emit(site, args, kwargs, result)
        self.sites.spreads.see(site.module, site.output, result)
        if result.requires_grad:
            if site.output_grad < 0:
                site.output_grad = recorder.site(site.module, Quantity.OUTPUT_GRAD)
            self.sites.hooked.hook(site.output_grad, site.time, result, None)

    def emit(self, site: _Site, args: tuple[object, ...], kwargs: Mapping[str, object], result: Tensor) -> None:
        """Emits the output, and what else there is to tell of the call."""
        self.recorder.emit(site.output, result, site.time)


class _ActivationCalls(_Watcher):
    """An activation function: dead and saturated units, as for the module."""

    takes_gradient = True

    def __init__(self, sites: _Sites, gates: Gates, known: ActivationFunction, function: str = "") -> None:
        super().__init__(sites, known.module.__name__, function or known.functions[0].__name__)
        self.gates = gates
        self.known = known

    def emit(self, site: _Site, args: tuple[object, ...], kwargs: Mapping[str, object], result: Tensor) -> None:
        activation = self.known.of_call(args, kwargs)
        saturated = activation.saturated if activation is not None else None
        self.recorder.emit(site.output, result, site.time, saturated)
        if saturated is not None:
            self.gates.follow(site.output, result)
        if activation is not None and activation.silent is not None:
            liveness = self.recorder.liveness
            liveness.see(site.output, result.detach(), unit_axis(result, liveness.features_last), activation.silent)


class _RectifyingCalls(_ActivationCalls):
    """Functions that are a ReLU if they are called like that."""

    def before(
        self, owner: str, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> _Site | None:
        """As of a ReLU, where it is one."""
        return super().before(owner, frame, args, kwargs) if rectifies(self.function, args, kwargs) else None


class _SoftmaxCalls(_Watcher):
    """Softmax; along the last axis it may be attention that was written out."""

    def emit(self, site: _Site, args: tuple[object, ...], kwargs: Mapping[str, object], result: Tensor) -> None:
        super().emit(site, args, kwargs, result)
        logits = first(args, kwargs)
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        _emit_sharpness(self.recorder, site.sharpness, logits, axis, site.time)


class _SoftmaxHook(ForwardHook):
    """The same for `nn.Softmax`, as a part of the model."""

    __slots__ = ("site",)

    def __init__(self, probe: str, recorder: Recorder, name: str) -> None:
        super().__init__(probe, recorder)
        self.site = SharpSite(name)

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        logits = first(args, more) if isinstance(more, Mapping) else None
        if isinstance(module, nn.Softmax) and isinstance(logits, Tensor) and has_numbers(logits):
            _emit_sharpness(self.recorder, self.site, logits, module.dim, self.time)
        return 1


def _emit_sharpness(recorder: Recorder, site: SharpSite, logits: object, axis: object, time: int) -> None:
    if not isinstance(logits, Tensor) or local(logits) is not logits:  # a shard need not have all keys
        return
    if logits.ndim >= 2 and axis in (-1, logits.ndim - 1) and logits.shape[-1] > 1:
        site.emit(recorder, attention.of_logits(logits), time, each=logits.ndim == 4)


class _FusedAttentionCalls(_Watcher):
    """F.scaled_dot_product_attention, whose logits are computed again."""

    def emit(self, site: _Site, args: tuple[object, ...], kwargs: Mapping[str, object], result: Tensor) -> None:
        super().emit(site, args, kwargs, result)
        query, key, _, mask, _, causal, scale = (
            args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(_FUSED_ARGUMENTS)
        )
        if not isinstance(query, Tensor) or not isinstance(key, Tensor) or query.is_nested or key.is_nested:
            return
        if local(key) is not key:  # a shard need not have all keys
            return
        if isinstance(mask, CausalBias):
            mask = mask._materialize(query.device)
        found = attention.of_queries_and_keys(
            query,
            key,
            scale=scale if isinstance(scale, int | float) else None,
            mask=mask if isinstance(mask, Tensor) else None,
            causal=bool(causal),
        )
        site.sharpness.emit(self.recorder, found, site.time, each=result.ndim == 4)


_FUSED_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


def first(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    """The input of a function: its first argument."""
    return args[0] if args else kwargs.get("input")

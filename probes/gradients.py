"""The gradients of the loss with respect to what the modules return and are given."""

import weakref
from contextlib import ExitStack
from typing import ClassVar

import torch
from torch import Tensor, nn

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target, gradient_receiver
from gradscope.probes.tensors import given_tensors, has_numbers, named_tensors, time_axis
from gradscope.records import Quantity


class Gradients(Probe):
    """∂L/∂y and ∂L/∂x of every observed module: the whole gradient of the tensor, whoever else uses it.

    Tensor hooks, placed in the forward hooks: full backward hooks raise on in-place activations. In a chain the input
    of a module is the output of the one before, so one hook serves both and the recorder copies the statistics.
    """

    name = "gradients"
    quantities = frozenset({Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward pre-hook and a forward hook on each observed module."""
        handles = ExitStack()
        hooked = hooked_tensors(recorder)
        handles.callback(hooked.clear)
        for name, module in target.modules.items():
            axis = target.time_axes.get(name)
            inputs, outputs = _InputHook(recorder, name, hooked, axis), _OutputHook(recorder, name, hooked, axis)
            handles.callback(module.register_forward_pre_hook(inputs, with_kwargs=True).remove)
            handles.callback(module.register_forward_hook(outputs).remove)
        if "" not in target.modules:  # the gradient of what the model was given
            whole = _InputHook(recorder, "", hooked, None)
            handles.callback(target.model.register_forward_pre_hook(whole, with_kwargs=True).remove)
        return handles


class HookedTensors:
    """The tensors of the running step that have our hook, by identity and version, and where their gradient goes."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)
        self._step = -1
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int, int]] = {}
        self._leaves: list[torch.utils.hooks.RemovableHandle] = []

    def hook(self, site: int, time: int, tensor: Tensor, axis: int | None) -> None:
        """Sends the gradient of `tensor`, once it is there, to `site` at `time`."""
        recorder = self._recorder()
        if recorder is None:
            return
        if self._step != recorder.step:
            self.clear()
            self._step = recorder.step
        known = self._known.get(id(tensor))
        if axis is None and known is not None and known[0]() is tensor and known[1] == tensor._version:
            recorder.same(site, time, known[2], known[3])
            return
        handle = tensor.register_hook(gradient_receiver(recorder, site, time, axis))
        if tensor.is_leaf:
            self._leaves.append(handle)  # it outlives the step; the others go with the graph
        if axis is None:
            # a weak reference: the activation must die when the training lets go of it
            self._known[id(tensor)] = weakref.ref(tensor), tensor._version, site, time

    def clear(self) -> None:
        """Forgets the tensors of the last step and takes our hooks off those that are still alive by themselves."""
        self._known.clear()
        for handle in self._leaves:
            handle.remove()
        self._leaves.clear()


_hooked: "weakref.WeakKeyDictionary[Recorder, HookedTensors]" = weakref.WeakKeyDictionary()


def hooked_tensors(recorder: Recorder) -> HookedTensors:
    """Those of `recorder`: all probes that want gradients share them, so that no tensor is hooked twice."""
    if recorder not in _hooked:
        _hooked[recorder] = HookedTensors(recorder)
    return _hooked[recorder]


class _GradientHook(ForwardHook):
    """What the hooks on inputs and outputs share: the sites of one module."""

    __slots__ = ("axis", "hooked", "module", "sites")
    quantity: ClassVar[Quantity]

    def __init__(self, recorder: Recorder, name: str, hooked: HookedTensors, axis: int | None) -> None:
        super().__init__(Gradients.name, recorder)
        self.module = name
        self.axis = axis
        self.hooked = hooked
        self.sites: dict[str, int] = {}

    def place(self, module: nn.Module, name: str, tensor: Tensor) -> int:
        """Hooks one tensor that has a gradient; how many times (positions of the sequence) it covers."""
        if not tensor.requires_grad or not has_numbers(tensor):
            return 1
        site = self.sites.get(name)
        if site is None:
            site = self.sites[name] = self.recorder.site(self.module, self.quantity, name)
        axis = time_axis(module, name, tensor, self.axis)
        self.hooked.hook(site, self.time, tensor, axis)
        return 1 if axis is None else tensor.shape[axis]


class _InputHook(_GradientHook):
    __slots__ = ()
    quantity = Quantity.INPUT_GRAD

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        if len(args) == 1 and not more and type(args[0]) is Tensor:  # what most modules are given
            return self.place(module, "", args[0])
        return max((self.place(module, name, tensor) for name, tensor in given_tensors(args, more)), default=1)


class _OutputHook(_GradientHook):
    __slots__ = ()
    quantity = Quantity.OUTPUT_GRAD

    def pass_by(self) -> None:
        if not self.sites:
            self.recorder.passed_by(self.module)

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        if not self.sites:
            self.recorder.completed(self.module)
        if type(more) is Tensor:  # what most modules return
            return self.place(module, "", more)
        return max((self.place(module, name, tensor) for name, tensor in named_tensors(more)), default=1)

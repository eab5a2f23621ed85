"""What the modules return."""

from contextlib import ExitStack

from torch import Tensor, nn

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target
from gradscope.probes.tensors import given_tensors, named_tensors, time_axis
from gradscope.records import Quantity
from gradscope.units import Activation, activation_of, features_last, unit_axis


class Activations(Probe):
    """The output of every observed module, and what the model was given.

    The output is reduced inside the forward hook: a later in-place operation would overwrite it.
    """

    name = "activations"
    quantities = frozenset({Quantity.INPUT, Quantity.OUTPUT})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward hook on each observed module, and a pre-hook on the model."""
        handles = ExitStack()
        layout = _Layout()
        handles.callback(
            target.model.register_forward_pre_hook(_InputHook(self.name, recorder), with_kwargs=True).remove
        )
        for name, module in target.modules.items():
            hook = _OutputHook(recorder, name, module, layout)
            handles.callback(module.register_forward_hook(hook).remove)
        return handles


class _Layout:
    """Where the layer that ran last put its features, for activation functions, which do not decide that themselves."""

    __slots__ = ("features_last",)

    def __init__(self) -> None:
        self.features_last = True


class _InputHook(ForwardHook):
    """Emits what the model is given."""

    __slots__ = ()

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        for name, tensor in given_tensors(args, more):
            self.recorder.emit(self.recorder.site("", Quantity.INPUT, name), tensor, self.time)
        return 1


class _OutputHook(ForwardHook):
    """Emits the outputs of one module."""

    __slots__ = ("activation", "features_last", "layout", "module", "sites")

    def __init__(self, recorder: Recorder, name: str, module: nn.Module, layout: _Layout) -> None:
        super().__init__(Activations.name, recorder)
        self.module = name
        self.layout = layout
        self.features_last = features_last(module)
        self.activation: Activation | None = activation_of(module)
        self.sites: dict[str, int] = {}

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        if self.features_last is not None:
            self.layout.features_last = self.features_last
        if type(more) is Tensor:  # what most modules return
            return self.emit(module, "", more)
        return max((self.emit(module, name, tensor) for name, tensor in named_tensors(more)), default=1)

    def emit(self, module: nn.Module, name: str, output: Tensor) -> int:
        """Emits one output; how many times (positions of the sequence) it covers."""
        if not (output.is_floating_point() or output.is_complex()):
            return 1
        recorder = self.recorder
        site = self.sites.get(name)
        if site is None:
            recorder.completed(self.module)
            site = self.sites[name] = recorder.site(self.module, Quantity.OUTPUT, name)
        axis = time_axis(module, name, output)
        if axis is not None:
            recorder.emit_slices(site, output, axis, self.time)
            return output.shape[axis]
        activation = self.activation
        if activation is None:
            recorder.emit(site, output, self.time)
            return 1
        recorder.emit(site, output, self.time, activation.saturated)
        if activation.silent is not None:
            axis = unit_axis(output, self.layout.features_last)
            recorder.liveness.see(site, output.detach(), axis, activation.silent)
        return 1

"""What the modules return."""

from contextlib import ExitStack

from torch import Tensor, nn

from gradscope.probes.base import ForwardHook, Probe, Recorder, Target
from gradscope.probes.containers import watch_containers
from gradscope.probes.names import bare_parameters
from gradscope.probes.spreads import Spreads
from gradscope.probes.tensors import given_tensors, has_numbers, named_tensors, time_axis
from gradscope.processes import local
from gradscope.records import Quantity, Statistic
from gradscope.statistics import fraction_where
from gradscope.units import Activation, activation_of, features_last, is_activation, unit_axis


class Activations(Probe):
    """The output of every observed module, and the input of the model and of modules whose time axis is named.

    The output is reduced inside the forward hook: a later in-place operation would overwrite it.
    """

    name = "activations"
    quantities = frozenset({Quantity.INPUT, Quantity.OUTPUT})

    def attach(self, target: Target, recorder: Recorder) -> ExitStack:
        """Places a forward hook on each observed module, and a pre-hook where the input is wanted."""
        handles = ExitStack()
        axes, spreads = target.time_axes, Spreads(recorder, self.name, target.model)
        for name, module in {"": target.model, **{name: target.modules[name] for name in axes}}.items():
            given = _InputHook(recorder, name, axes.get(name), spreads)
            handles.callback(module.register_forward_pre_hook(given, with_kwargs=True).remove)
        for name, module in target.modules.items():
            hook = _OutputHook(recorder, name, module, axes.get(name), spreads)
            handles.callback(module.register_forward_hook(hook).remove)
        handles.enter_context(watch_containers(target, recorder, self.name))
        return handles


class _InputHook(ForwardHook):
    """Emits what one module is given."""

    __slots__ = ("axis", "module", "spreads")

    def __init__(self, recorder: Recorder, name: str, axis: int | None, spreads: Spreads) -> None:
        super().__init__(Activations.name, recorder)
        self.module = name
        self.axis = axis
        self.spreads = spreads

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        return max((self.emit(module, name, tensor) for name, tensor in given_tensors(args, more)), default=1)

    def emit(self, module: nn.Module, name: str, given: Tensor) -> int:
        """Emits one input; how many times (positions of the sequence) it covers."""
        site = self.recorder.site(self.module, Quantity.INPUT, name)
        axis = time_axis(module, name, given, self.axis)
        if not self.module:
            self.spreads.see("", site, given, name)
        if axis is None:
            self.recorder.emit(site, given, self.time)
            return 1
        self.recorder.emit_slices(site, given, axis, self.time)
        return given.shape[axis]


class _OutputHook(ForwardHook):
    """Emits the outputs of one module."""

    __slots__ = ("activation", "axis", "features_last", "is_layer", "module", "sites", "spreads")

    def __init__(self, recorder: Recorder, name: str, module: nn.Module, axis: int | None, spreads: Spreads) -> None:
        super().__init__(Activations.name, recorder)
        self.spreads = spreads
        self.module = name
        self.axis = axis
        self.features_last = features_last(module)
        self.is_layer = not is_activation(module) and bool(bare_parameters(module))
        self.activation: Activation | None = activation_of(module)
        self.sites: dict[str, int] = {}

    def pass_by(self) -> None:
        if not self.sites:
            self.recorder.passed_by(self.module)
        self.tell_layout()

    def tell_layout(self) -> None:
        """Which layer ran last, and where it puts its features."""
        if self.is_layer:
            self.recorder.liveness.layer = self.module
        if self.features_last is not None:
            self.recorder.liveness.features_last = self.features_last

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        self.tell_layout()
        if type(more) is Tensor:  # what most modules return
            return self.emit(module, "", more)
        return max((self.emit(module, name, tensor) for name, tensor in named_tensors(more)), default=1)

    def emit(self, module: nn.Module, name: str, output: Tensor) -> int:
        """Emits one output; how many times (positions of the sequence) it covers."""
        if not has_numbers(output):
            return 1
        recorder = self.recorder
        site = self.sites.get(name)
        if site is None:
            recorder.completed(self.module)
            site = self.sites[name] = recorder.site(self.module, Quantity.OUTPUT, name)
            recorder.computes_in(self.module, output.dtype)
            if self.axis is not None and not -output.ndim <= self.axis < output.ndim:
                what = (
                    f"the output of {self.module or 'the model'} of shape {tuple(output.shape)} has no axis {self.axis}"
                )
                recorder.tell("not-observed", self.module, f"{what}, which `time_axes` names; it is recorded whole.")
        activation = self.activation
        times = 1
        axis = time_axis(module, name, output, self.axis)
        if axis is not None:
            times = output.shape[axis]
            recorder.emit_slices(site, output, axis, self.time)
            if activation is not None and activation.saturated is not None:
                share = fraction_where(local(output), activation.saturated)
                recorder.derive(site, Statistic.SATURATED_FRACTION, share)
        else:
            recorder.emit(site, output, self.time, activation.saturated if activation is not None else None)
        self.spreads.see(self.module, site, output, name)
        if activation is not None and activation.silent is not None:
            units = unit_axis(output, recorder.liveness.features_last)
            recorder.liveness.see(site, output.detach(), units, activation.silent)
        return times

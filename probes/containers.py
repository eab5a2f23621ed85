"""Whether what a module that holds others returns is still finite: it may call functions behind the last of them.

Containers are no sites. One number for each is enough to tell in which of them a NaN was made that shows only in the
next layer, and it is looked at only in a step in which something is broken.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from gradscope.probes.base import ForwardHook, Recorder, Target
from gradscope.probes.calls import is_torchs_own
from gradscope.probes.names import bare_modules
from gradscope.probes.tensors import named_tensors


def watch_containers(target: Target, recorder: Recorder, probe: str) -> ExitStack:
    """Places a forward hook on each module that somebody has written around others, but for the model itself."""
    handles = ExitStack()
    for name, module in bare_modules(target.model).items():
        if not name or name in target.modules or not module._modules or is_torchs_own(module):
            continue
        if not isinstance(module, torch.jit.ScriptModule):  # it takes no hooks
            hook = _ContainerHook(probe, recorder, name)
            handles.callback(module.register_forward_hook(hook).remove)
    return handles


class _ContainerHook(ForwardHook):
    """Keeps a sum of what a container returns: it is not finite if an element is not."""

    __slots__ = ("module",)

    def __init__(self, probe: str, recorder: Recorder, module: str) -> None:
        super().__init__(probe, recorder)
        self.module = module

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        for _, tensor in named_tensors(more):
            if type(tensor) is Tensor and tensor.layout is torch.strided and not tensor.is_complex():
                wide = torch.float32 if tensor.itemsize == 2 else None  # sums of 16 bits overflow
                self.recorder.returned(self.module, tensor.detach().sum(dtype=wide))
        return 1

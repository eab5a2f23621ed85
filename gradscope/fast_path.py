"""torch's `TransformerEncoderLayer` evaluates in a faster way, unless it finds a hook: then the last digits differ.

So our hooks leave such a layer when it is evaluated, and come back when the model runs with gradients again.
"""

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn
from torch.compiler import is_compiling

from gradscope.probes.base import Hook, Recorder, Target
from gradscope.probes.names import bare_modules, unwrapped
from gradscope.recorder import RECORDER


class FastPath:
    """The hooks that have left encoder layers for the time of an evaluation."""

    def __init__(self, target: Target, recorder: Recorder) -> None:
        self._away: list[tuple[dict[int, Callable[..., object]], int, Callable[..., object]]] = []
        self._handles = ExitStack()
        root = unwrapped(target.model)
        layers = [m for m in bare_modules(root).values() if isinstance(m, nn.TransformerEncoderLayer) and m is not root]
        for layer in layers:  # of a model that is nothing but a layer, nobody would call the hooks back
            self._handles.callback(layer.register_forward_pre_hook(_Leave(self, recorder), prepend=True).remove)
        if layers:
            self._handles.callback(root.register_forward_pre_hook(_Return(self, recorder), prepend=True).remove)

    def leave(self, layer: nn.Module) -> None:
        """Takes our hooks off `layer` and all that is in it, unless others keep it from the fast path anyway."""
        modules = bare_modules(layer).values()
        held = [hooks for module in modules for hooks in (module._forward_pre_hooks, module._forward_hooks)]
        if not all(isinstance(hook, Hook) for hooks in held for hook in hooks.values()):
            return  # and ours would come back behind them, to see what they have changed
        for hooks in held:
            self._away += [(hooks, number, hook) for number, hook in hooks.items()]
            hooks.clear()

    def come_back(self) -> None:
        """Puts them where they were."""
        for hooks, number, hook in self._away:
            hooks[number] = hook
        self._away.clear()

    def close(self) -> None:
        """All are back; nothing of this file is left."""
        self.come_back()
        self._handles.close()


class _PathHook(Hook):
    __slots__ = ("path",)

    def __init__(self, path: FastPath, recorder: Recorder) -> None:
        super().__init__(RECORDER, recorder)
        self.path = path


class _Leave(_PathHook):
    """An encoder layer is called."""

    __slots__ = ()

    def __call__(self, layer: nn.Module, args: object) -> None:
        if not is_compiling() and not layer.training and not torch.is_grad_enabled():
            self.path.leave(layer)


class _Return(_PathHook):
    """The model is called."""

    __slots__ = ()

    def __call__(self, model: nn.Module, args: object) -> None:
        if not is_compiling() and torch.is_grad_enabled():
            self.path.come_back()

"""Which functions of torch the model calls, and in which of its modules.

    pre-hook of a module        it is put on the stack of owners; with the first one the mode is entered
    the model calls F.relu      the mode hands the call to whom it belongs: the owner on top
    hook of the module, always  it is taken off the stack; with the last one the mode is left

Owners are the modules that somebody has written: those of torch.nn call no function that is not the module itself,
except the layers of nn.Transformer, which call their activation. So a model of torch's modules pays nothing.
"""

import os
import sys
import threading
from collections.abc import Callable, Container, Mapping
from contextlib import ExitStack
from types import CodeType, FrameType
from typing import Protocol, TypeVar

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.overrides import TorchFunctionMode

from gradscope.probes.base import Hook, Recorder, aside, in_transform
from gradscope.units import is_activation

_Result = TypeVar("_Result")

_TORCH = torch.__path__[0]
_MODULES = os.path.join(_TORCH, "nn", "modules", "")
_CALLERS = (f"{_MODULES}transformer.py",)  # modules of torch.nn that call an activation function
_PASSED_THROUGH = frozenset(
    os.path.join(_TORCH, *of) for of in (("nn", "functional.py"), ("overrides.py",), ("_tensor.py",))
)


class Watcher(Protocol):
    """What is told of a call: once before it, and once after."""

    def before(self, owner: str, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        """`owner` is about to make the call, in `frame`. What this returns goes to `after`; None: it is not told."""
        ...

    def after(self, noted: object, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> None:
        """The call has returned `result`."""
        ...


class Calls:
    """The calls of one model's modules, in recorded steps.

    Args:
        probe: Whom to blame for a failure.
        watchers: By function.
    """

    def __init__(self, probe: str, recorder: Recorder, watchers: Mapping[Callable[..., object], Watcher]) -> None:
        self.probe = probe
        self.recorder = recorder
        self._running = _Running()
        self._mode = _Mode(self, watchers)
        self._open = True

    def watch(self, modules: Mapping[str, nn.Module]) -> ExitStack:
        """Places hooks on those of `modules` that can own a call; closing the stack removes them and the mode."""
        handles = ExitStack()
        for name, module in modules.items():
            if isinstance(module, nn.MultiheadAttention) or (not is_torchs_own(module) and is_activation(module)):
                owner = None  # what it calls is its own business
            elif is_torchs_own(module) or isinstance(module, torch.jit.ScriptModule):
                continue
            else:
                owner = name
            handles.callback(module.register_forward_pre_hook(_Enter(self, owner)).remove)
            handles.callback(module.register_forward_hook(_Leave(self, owner), always_call=True).remove)
        handles.callback(self._close)
        return handles

    def begin(self) -> None:
        """A step begins: nothing of ours is running yet."""
        self.end()

    def end(self) -> None:
        """A step is over. KeyboardInterrupt does not run the hooks after a forward, so something may be left."""
        self._running.owners.clear()
        self._leave_mode()

    def _close(self) -> None:
        """Hooks that are removed while torch goes through them are still called, once."""
        self._open = False
        self.end()

    def push(self, owner: str | None) -> None:
        """A module begins to run."""
        if not self._open:
            return
        owners = self._running.owners
        owners.append(owner)
        if owner is None:
            self._leave_mode()  # nn.MultiheadAttention takes another way where a mode is on
        elif len(owners) == 1 or owners[-2] is None:
            torch._C._push_on_torch_function_stack(self._mode)

    def pop(self, owner: str | None) -> None:
        """A module has ended, with or without an error."""
        owners = self._running.owners
        if owner not in owners:
            return
        while owners.pop() != owner:  # left over where a hook of the module's was not run
            pass
        inside = bool(owners) and owners[-1] is not None
        if not inside:
            self._leave_mode()
        elif owner is None:
            torch._C._push_on_torch_function_stack(self._mode)

    @property
    def owner(self) -> str | None:
        """The module that is running in this thread."""
        owners = self._running.owners
        return owners[-1] if owners else None

    @property
    def running(self) -> bool:
        """Whether a module is running in this thread."""
        return bool(self._running.owners)

    def _leave_mode(self) -> None:
        """Takes our mode off this thread's stack, wherever it lies in it."""
        above = []
        while (depth := torch._C._len_torch_function_stack()) and self._lies_below(depth):
            mode = torch._C._pop_torch_function_stack()
            if mode is not self._mode:
                above.append(mode)
        for mode in reversed(above):
            torch._C._push_on_torch_function_stack(mode)

    def _lies_below(self, depth: int) -> bool:
        return any(torch._C._get_function_stack_at(i) is self._mode for i in range(depth))


class _Running(threading.local):
    """The modules that are running in one thread, the innermost last; None for those whose calls are not looked at."""

    def __init__(self) -> None:
        self.owners: list[str | None] = []


class _Mode(TorchFunctionMode):
    """Sees every call of a function of torch, in the thread that entered it; its own calls it does not see."""

    def __init__(self, calls: Calls, watchers: Mapping[Callable[..., object], Watcher]) -> None:
        self._calls = calls
        self._watchers = watchers

    def __torch_function__(
        self,
        func: Callable[..., _Result],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> _Result:
        watcher = None if is_compiling() else self._watchers.get(func)
        if watcher is None:
            return func(*args) if kwargs is None else func(*args, **kwargs)
        kwargs = kwargs or {}
        noted = self._before(watcher, sys._getframe(1), args, kwargs)
        result = func(*args, **kwargs)
        if noted is not None:
            try:
                aside(watcher.after, noted, args, kwargs, result)
            except Exception as error:
                self._calls.recorder.failed(self._calls.probe, error)
        return result

    def _before(
        self, watcher: Watcher, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        calls = self._calls
        owner, recorder = calls.owner, calls.recorder
        if owner is None or not recorder.on or in_transform():
            return None
        try:
            with torch._C.DisableTorchFunction():  # as in `aside`; a hook is all that is placed here
                return watcher.before(owner, frame, args, kwargs)
        except Exception as error:
            recorder.failed(calls.probe, error)
            return None


class _OwnerHook(Hook):
    """A hook around the forward of an owner."""

    __slots__ = ("calls", "owner")

    def __init__(self, calls: Calls, owner: str | None) -> None:
        super().__init__(calls.probe, calls.recorder)
        self.calls = calls
        self.owner = owner


class _Enter(_OwnerHook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: object) -> None:
        if is_compiling():
            return
        recorder = self.recorder
        if not (recorder.on or recorder.boundary) or in_transform():
            return
        if not torch.is_grad_enabled() and (recorder.boundary or not self.calls.running):
            return  # an evaluation; within a forward with gradients it may be a checkpoint, to be computed again
        if recorder.boundary:
            recorder.advance()
        if recorder.on:
            self.calls.push(self.owner)


class _Leave(_OwnerHook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        if not is_compiling():
            self.calls.pop(self.owner)


def is_torchs_own(module: nn.Module) -> bool:
    """Whether all that `module` does is written in torch, whatever FSDP and parametrizations call its class."""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return False
    return all(cls.__module__.split(".")[0] in ("torch", "builtins", "typing", "abc") for cls in type(module).__mro__)


def place_of_call(frame: FrameType, own: Container[int]) -> tuple[CodeType, int] | None:
    """Where in the model's code a call stands that was made in `frame`.

    None if one of torch.nn's modules makes it that is observed itself, as its id in `own` says. Others, as that of
    `nn.Softmax(-1)(x)` or those in a plain list, are no part of the model: they do what a function does.
    """
    caller: FrameType | None = frame
    while caller is not None and (file := caller.f_code.co_filename) not in _CALLERS:
        if file.startswith(_MODULES):
            if id(caller.f_locals.get("self")) in own:
                return None
        elif file not in _PASSED_THROUGH:
            break
        caller = caller.f_back
    return None if caller is None else (caller.f_code, caller.f_lasti)


def from_torch(frame: FrameType) -> bool:
    """Whether it is torch's own code that makes a call."""
    return frame.f_code.co_filename.startswith(_TORCH + os.sep)


def line_of(code: CodeType, instruction: int) -> int:
    """The line of an instruction."""
    lines = (line for first, end, line in code.co_lines() if first <= instruction < end)
    return next(lines, None) or code.co_firstlineno

"""Attaches to what a script trains, without a word in the script.

    an optimizer is made        the modules whose parameters it has get a hook that waits for their first call
    a module is called          everything that waits is attached: as late as possible, when it is wrapped and complete
    something is compiled       the same at once, since compiled code would leave that hook out
    an optimizer has stepped    the same, if it came to that; the step that has just ended is lost
    a backward runs, and no optimizer was made      the script moves its weights by itself; its first step is lost

Meanwhile three functions of torch are replaced by themselves with a look before or after: what makes an optimizer, what
compiles, and, until it is known what is trained, what runs backward.
"""

import functools
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradscope.discovery import Living, leaves_behind, name_of, narrowed, parameters_of, without_shape
from gradscope.enough import Limit
from gradscope.errors import UsageError
from gradscope.probes.base import Hook, in_transform
from gradscope.probes.names import bare_parameters
from gradscope.scope import Scope, attach
from gradscope.trace import Trace


class Root:
    """A model that the script trains.

    Attributes:
        name: What the script calls it, made unique.
        given: What the script calls it.
        path: Where its trace is written, if it is.
        scope: Its recording, while it runs.
        held: Identities of the parameters that it holds.
        trace: What was recorded, once the recording has ended.
    """

    def __init__(self, name: str, given: str, path: Path | None, scope: Scope, held: frozenset[int]) -> None:
        self.name = name
        self.given = given
        self.path = path
        self.scope: Scope | None = scope
        self.held = held
        self.trace: Trace | None = None

    @property
    def steps(self) -> int:
        """How many are recorded."""
        return self.scope.complete_steps if self.scope is not None else len(self.trace.steps) if self.trace else 0

    def close(self, error: BaseException | None) -> None:
        """Ends the recording; the model is let go."""
        if self.scope is not None:
            self.scope.__exit__(None if error is None else type(error), error, None)
            self.trace = self.scope.trace
        self.scope, self.held = None, frozenset()


_WORTH_TELLING = 1.0  # seconds of computing in the script's children
_MOST_STRANGE = 20  # backward passes without a module; each costs a look at all that lives


class Onlooker:
    """Looks on while a script trains, from `begin` to `end`.

    Args:
        out: Where the trace goes; of several roots each has a file, named after it.
        every: Every n-th step is recorded.
        steps: After so many recorded steps of every model the script is ended, see `enough`; None: it is not.

    Attributes:
        roots: What is recorded.
        notes: Sentences about what could not be.
        optimizers: How many were made.
        strange_backwards: How many backward passes ended at tensors of which no module holds one.
        limit: What ends the script after some steps.
    """

    def __init__(self, *, out: Path | None, every: int, steps: int | None = None) -> None:
        self.roots: list[Root] = []
        self.notes: list[str] = []
        self.optimizers = self.strange_backwards = 0
        self.limit = None if steps is None else Limit(steps, self._counts, self._close_all)
        self._out = out
        self._every = every
        self._process = os.getpid()
        self._child_trains = mmap.mmap(-1, 1)  # shared with the processes that this one forks
        self._forks = ExitStack()
        self._restore = ExitStack()
        self._backward = ExitStack()
        self._armed: list[RemovableHandle] = []
        self._waiting: list[weakref.ref[torch.optim.Optimizer]] = []
        self._compiles = False
        self._busy = False
        self._without_scaler: list[Scope] = []
        self._spent_before = _spent_by_children()
        self._refused = ""  # why a model was not attached to

    def begin(self) -> None:
        """From now on what is trained is recorded."""
        self._restore.callback(self._backward.close)
        self._replace(torch.optim.Optimizer, "__init__", self._restore, after=self._optimizer_made)
        self._replace(torch, "compile", self._restore, before=self._something_compiles)
        self._replace(torch.autograd, "backward", self._backward, before=self._backward_runs)
        self._replace_scripting()
        self._restore.callback(register_optimizer_step_post_hook(self._optimizer_stepped).remove)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_parent)

    def end(self, error: BaseException | None) -> None:
        """The script is over, by `error` if there was one."""
        self._restore.close()
        self._disarm()
        if self.limit is not None:
            self.limit.lift()
        self._close_all(error)
        if self.child_trained:
            self.notes.append("a process that the script forked trained too; only the script's own process is recorded")

    def _close_all(self, error: BaseException | None = None) -> None:
        for root in self.roots:
            try:
                root.close(error)
            except Exception as failure:
                self._note(failure)

    def _counts(self) -> tuple[list[int], bool]:
        """How many steps of each root are recorded, and whether an optimizer waits for its first."""
        return [root.steps for root in self.roots], any(waiting() is not None for waiting in self._waiting)

    @property
    def child_trained(self) -> bool:
        """Whether an optimizer has stepped in a process that the script has forked."""
        return bool(self._child_trains[0])

    def why_nothing(self, script: str) -> str:
        """Why there is no recorded step, as a sentence about `script`."""
        if self.child_trained or _spent_by_children() - self._spent_before > _WORTH_TELLING:
            return (
                f"processes that {script} started did the computing, and only its own is recorded; start them with"
                " `torchrun -m gradscope attach`, or call gradscope.attach in them."
            )
        if self.roots:
            return f"a model of {script} waited for a step with gradients, and none came."
        if self._refused:
            return f"a model of {script} could not be watched. {self._refused}"
        if self.optimizers:
            return (
                f"{script} made an optimizer, but called no module whose parameters it has with gradients switched on."
            )
        if self.strange_backwards:
            return f"{script} computed gradients, but of tensors that no torch.nn.Module holds; put them into one."
        return f"{script} trained no model: no optimizer was made and no gradient computed."

    @property
    def elsewhere(self) -> bool:
        """Whether this is a process that the script has forked."""
        return os.getpid() != self._process

    def _replace(
        self,
        owner: object,
        name: str,
        restore: ExitStack,
        *,
        before: Callable[[object], None] | None = None,
        after: Callable[[object], None] | None = None,
    ) -> None:
        """`before` and `after` get the first argument; what they raise is noted and goes no further."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args: object, **kwargs: object) -> object:
            if before is not None:
                self._quietly(before, args[0] if args else None)
            result = original(*args, **kwargs)
            if after is not None:
                self._quietly(after, args[0])
            return result

        setattr(owner, name, watched)
        restore.callback(lambda: setattr(owner, name, original) if getattr(owner, name) is watched else None)

    def _replace_scripting(self) -> None:
        """TorchScript compiles the hooks that it finds on a module, and cannot compile ours."""
        owner, name = torch.jit._recursive, "create_script_module"
        original = getattr(owner, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def bare(module: nn.Module, *args: object, **kwargs: object) -> object:
            with _without_hooks(module):
                return original(module, *args, **kwargs)

        setattr(owner, name, bare)
        self._restore.callback(setattr, owner, name, original)

    def _quietly(self, act: Callable[[object], None], given: object) -> None:
        if self._busy or self.elsewhere:
            return
        self._busy = True
        try:
            act(given)
        except Exception as error:
            self._note(error)
        finally:
            self._busy = False

    def _note(self, error: Exception) -> None:
        note = str(error) if isinstance(error, UsageError) else f"the recording failed: {type(error).__name__}: {error}"
        if note not in self.notes:
            self.notes.append(note)

    # ---------------------------------------------------------------- what is seen

    def _optimizer_made(self, optimizer: object) -> None:
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.optimizers += 1
        self._backward.close()
        rest = {id(p) for p in parameters_of(optimizer)}
        for root in self.roots:
            if root.scope is not None and rest & root.held:
                root.scope.watch(optimizer)
                rest -= root.held
        if rest:
            self._waiting.append(weakref.ref(optimizer))
            if self._compiles:
                self._attach_waiting(None)
            else:
                self._arm(Living().roots_of(parameters_of(optimizer)))

    def _something_compiles(self, _: object) -> None:
        self._compiles = True
        self._attach_waiting(None)

    def _backward_runs(self, tensors: object) -> None:
        if torch.compiler.is_compiling():
            return
        given = [tensors] if isinstance(tensors, Tensor) else tensors if isinstance(tensors, list | tuple) else []
        moved = leaves_behind(given)
        if not moved:
            return
        living = Living()
        if found := living.roots_of(moved):
            self._backward.close()
            self._attach({narrowed(root, None, ()): [] for root in found}, {id(p) for p in moved}, living)
            self.notes.append(
                "no optimizer of torch.optim was made, so the first step came before it could be recorded"
            )
            return
        self.strange_backwards += 1
        if self.strange_backwards == _MOST_STRANGE:
            self._backward.close()

    def _optimizer_stepped(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        """After every step of every optimizer, last of all hooks: here hooks may be placed on it."""
        if torch.compiler.is_compiling():
            return
        if self.elsewhere:
            self._child_trains[0] = 1
            return
        if self._waiting or self._without_scaler:
            self._quietly(self._late, optimizer)
        if self.limit is not None:
            self.limit.step_ended()

    def _late(self, optimizer: object) -> None:
        if any(waiting() is optimizer for waiting in self._waiting):
            self._attach_waiting(None)
            self.notes.append("the first step came before it could be recorded: no module was called as one")
        living = Living() if self._without_scaler else None
        while living is not None and self._without_scaler:
            self._give_scaler(self._without_scaler.pop(), living)

    def first_call(self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """A module that waits is called: the hooks that are placed now are called for it too."""
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return
        if not torch.is_grad_enabled() or in_transform() or not self._armed:
            return
        known = set(module._forward_pre_hooks)
        self._quietly(lambda called: self._attach_waiting(module), module)
        for key, hook in list(module._forward_pre_hooks.items()):
            if key not in known:  # torch made its list of them before
                hook(module, args, kwargs) if key in module._forward_pre_hooks_with_kwargs else hook(module, args)

    def _leave_to_parent(self) -> None:
        """In a child nothing is recorded. Most children only load data, so the hooks are left where they are."""
        for root in self.roots:
            if root.scope is not None:
                self._forks.enter_context(root.scope.paused())

    # ---------------------------------------------------------------- what is done about it

    def _arm(self, roots: Iterable[nn.Module]) -> None:
        hook = _FirstCall(self)
        for root in roots:
            for module in root.modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    self._armed.append(module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))

    def _disarm(self) -> None:
        for handle in self._armed:
            handle.remove()
        self._armed.clear()

    def _attach_waiting(self, called: nn.Module | None) -> None:
        """Attaches to what the optimizers move that have been made since."""
        optimizers = [optimizer for waiting in self._waiting if (optimizer := waiting()) is not None]
        self._disarm()
        if any(without_shape(parameters_of(optimizer)) for optimizer in optimizers):
            return  # after the first step they have one
        self._waiting.clear()
        trained = {id(p) for optimizer in optimizers for p in parameters_of(optimizer)}
        living = Living()
        found: dict[nn.Module, list[torch.optim.Optimizer]] = {}
        for optimizer in optimizers:
            roots = living.roots_of(parameters_of(optimizer))
            if not roots:
                self.notes.append(
                    f"no module holds the parameters of {type(optimizer).__name__}; only modules are recorded"
                )
            for root in roots:
                found.setdefault(narrowed(root, called, trained), []).append(optimizer)
        self._attach(found, trained, living)

    def _attach(
        self, found: Mapping[nn.Module, list[torch.optim.Optimizer]], trained: set[int], living: Living
    ) -> None:
        before = list(self.roots)
        for model, optimizers in found.items():
            held = frozenset(id(p) for p in bare_parameters(model).values())
            if held & trained <= {key for root in self.roots for key in root.held}:
                continue  # all of it is recorded
            given = name_of(model, sys.modules["__main__"])
            for root in before:
                if root.given == given:
                    root.close(None)  # the script has given its name to another: the next fold, the next trial
            name = next(one for one in _numbered(given) if all(one != root.name for root in self.roots))
            path = self._out
            if path is not None and (self.roots or len(found) > 1):
                path = path.with_name(f"{path.stem}.{name}{path.suffix}")
            try:
                scope = attach(model, optimizer=optimizers, trace=path, every=self._every, meta={"root": name})
            except UsageError as error:
                self._note(error)
                self._refused = str(error)
                continue
            self.roots.append(Root(name, given, path, scope, held))
            if self.limit is not None:
                scope.follow(self.limit)
            self._give_scaler(scope, living)
            if not living.scalers:
                self._without_scaler.append(scope)

    def _give_scaler(self, scope: Scope, living: Living) -> None:
        if living.scalers:
            scope.watch(scaler=living.scalers[0])


def _spent_by_children() -> float:
    """Seconds of computing in child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}{number}" for number in count(2))


@contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
    """Takes gradscope's hooks out of `model` and puts them back in their order."""
    kept = []
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if any(isinstance(hook, Hook | _FirstCall) for hook in hooks.values()):
                kept.append((hooks, dict(hooks)))
    for hooks, all_hooks in kept:
        for key, hook in all_hooks.items():
            if isinstance(hook, Hook | _FirstCall):
                del hooks[key]
    try:
        yield
    finally:
        for hooks, all_hooks in kept:
            hooks.clear()
            hooks.update(all_hooks)


class _FirstCall:
    """The hook that waits. A copy of the model does without it, and without what it refers to."""

    __slots__ = ("_onlooker",)

    def __init__(self, onlooker: Onlooker) -> None:
        self._onlooker = onlooker

    def __call__(self, module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        self._onlooker.first_call(module, args, kwargs)

    __reduce__ = Hook.__reduce__

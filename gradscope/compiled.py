"""Recorded steps run eagerly, where a model or parts of it were given to `torch.compile`.

Compiled code runs without hooks: those that come later than the compiler are not seen, in silence, and ours leave
nothing behind when they are traced (`probes.base.ForwardHook`). So a recorded step runs, by torch's own switch, as if
nothing had been compiled; that recompiles nothing. The switch has to be thrown at the boundary before the step: the
forward of a compiled model is too late.
"""

import sys
import weakref
from contextlib import AbstractContextManager, suppress

import torch
from torch.compiler import is_compiling


class _Switch:
    """Torch has one for the process, so it is thrown for the first who wants it and given back after the last."""

    def __init__(self) -> None:
        self.wanted_by: set[int] = set()
        self.thrown: AbstractContextManager[None] | None = None

    def want(self, who: int) -> None:
        """Throws it. Raises RuntimeError where torch does not let it be thrown: in compiled code."""
        if self.thrown is None and "torch._dynamo" in sys.modules:  # without it nothing can be compiled
            self.thrown = torch.compiler.set_stance("force_eager")  # from now on, not only from its __enter__ on
        self.wanted_by.add(who)

    def release(self, who: int) -> None:
        """Gives it back as it was found, if nobody else wants it."""
        self.wanted_by.discard(who)
        if self.thrown is not None and not self.wanted_by:
            with suppress(RuntimeError):  # as above: then it stays thrown until the next time
                self.thrown.__exit__(None, None, None)
                self.thrown = None


_switch = _Switch()


class Eagerly:
    """One scope's hand at the switch; gone with it, should nobody have detached it.

    Attributes:
        refused: The switch could not be thrown: a whole step of the training is compiled code.
    """

    def __init__(self) -> None:
        self.refused = False
        weakref.finalize(self, _switch.release, id(self))

    def hold(self, wanted: bool) -> None:
        """Wants the switch thrown from now on, or no more."""
        if is_compiling():  # Dynamo cannot look at the switch
            self.refused = self.refused or wanted
            return
        if not wanted:
            _switch.release(id(self))
            return
        try:
            _switch.want(id(self))
        except (RuntimeError, AssertionError):  # the latter is what Dynamo says of the switch
            self.refused = True

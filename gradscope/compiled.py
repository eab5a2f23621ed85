"""Recorded steps run eagerly, where a model or parts of it were given to `torch.compile`.

Compiled code runs without hooks: those that come later than the compiler are not seen, in silence, and ours leave
nothing behind when they are traced (`probes.base.ForwardHook`). So a recorded step runs, by torch's own switch, as if
nothing had been compiled; that recompiles nothing. The switch has to be thrown at the boundary before the step: the
forward of a compiled model is too late.
"""

import sys
from contextlib import ExitStack, suppress

import torch


class Eagerly:
    """Torch's switch.

    Attributes:
        refused: Torch did not let it be thrown: a whole step of the training is compiled code.
    """

    def __init__(self) -> None:
        self.refused = False
        self._held: ExitStack | None = None

    def hold(self, wanted: bool) -> None:
        """Throws the switch, or gives it back as it was found."""
        if wanted == (self._held is not None):
            return
        if self._held is not None:
            with suppress(RuntimeError):  # as below: then it stays thrown until the next time
                self._held.close()
                self._held = None
        elif "torch._dynamo" in sys.modules:  # without it nothing can be compiled; every optimizer imports it
            held = ExitStack()
            try:
                held.enter_context(torch.compiler.set_stance("force_eager"))
            except RuntimeError:  # called from compiled code
                self.refused = True
            else:
                self._held = held

"""A scope that begins and ends with the training of a framework. The callbacks tell it when."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from gradscope.errors import GradscopeError
from gradscope.findings import Diagnosis, Json, Severity
from gradscope.probes.base import Probe
from gradscope.rules.base import Rule
from gradscope.schedule import Schedule
from gradscope.scope import Scope, attach
from gradscope.steps import GradScaler

_log = logging.getLogger("gradscope")


class Options(TypedDict, total=False):
    """What a callback hands on to `gradscope.attach`; the rest it finds out by itself."""

    trace: str | Path | None
    probes: Iterable[Probe] | None
    rules: Iterable[Rule] | None
    modules: Iterable[str]
    time_axes: Mapping[str, int]
    every: int | Schedule
    meta: dict[str, Json] | None


class Lifecycle:
    """One training after the other, each with a scope of its own.

    Attributes:
        scope: Of the training that runs, or of the last one; None before the first.
    """

    def __init__(self, options: Options, follow: Callable[[Scope], object] | None) -> None:
        self._options = options
        self._follow = follow
        self._pause = ExitStack()
        self._running = False
        self._diagnosis: Diagnosis | None = None
        self.scope: Scope | None = None

    def begin(
        self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], scaler: GradScaler | None, step: int
    ) -> Scope:
        """A training begins, at `step`."""
        self.end(speak=False)  # one that raised, where the framework did not tell
        scope = attach(model, optimizer=optimizers, scaler=scaler, first_step=step, **self._options)
        self.scope, self._running, self._diagnosis = scope, True, None
        if self._follow is not None:
            self._follow(scope)
        return scope

    def loss(self, loss: Tensor | float) -> None:
        """The loss of the running step."""
        if self._running and self.scope is not None:
            self.scope.record_loss(loss)

    def pause(self) -> None:
        """An evaluation begins."""
        if self._running and self.scope is not None:
            self._pause.enter_context(self.scope.paused())

    def resume(self) -> None:
        """The evaluation is over."""
        self._pause.close()

    def end(self, error: BaseException | None = None, *, speak: bool) -> None:
        """The training is over, or has raised `error`; with `speak` the findings go to the log."""
        if not self._running or self.scope is None:
            return
        self._running = False
        self._pause.close()
        self.scope.__exit__(type(error) if error else None, error, None)
        if speak:
            try:
                _tell(self.scope.diagnose())
            except GradscopeError as failure:  # a trace that cannot be read must not end a training that is done
                _log.warning("gradscope: %s", failure)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What was found, or has been found so far; None before the first training."""
        if self.scope is None:
            return None
        if self._running:
            return self.scope.diagnose()
        if self._diagnosis is None:
            self._diagnosis = self.scope.diagnose()
        return self._diagnosis

    def __getstate__(self) -> dict[str, object]:
        # a callback is pickled on its way to other processes: there it records by itself
        return {**self.__dict__, "scope": None, "_pause": None, "_running": False, "_diagnosis": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _pause=ExitStack())


def _tell(diagnosis: Diagnosis) -> None:
    """The roots to the log, a line each."""
    for finding in diagnosis.roots:
        level = logging.INFO if finding.severity is Severity.INFO else logging.WARNING
        where, what = finding.module or "(model)", f"{finding.severity.value} {finding.title}"
        _log.log(level, "gradscope: %s at %s: %s %s", what, where, finding.message, finding.remedy)
    if not diagnosis.roots:
        _log.info("gradscope: nothing found in %d recorded steps", diagnosis.steps)

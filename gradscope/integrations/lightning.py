"""Lightning: a callback that attaches when the training starts and detaches when it ends, however it ends.

    watch = GradscopeCallback(trace="run.h5")
    Trainer(callbacks=[watch]).fit(model, data)
    print(watch.diagnosis)

It attaches after the strategy has been set up and after the sanity check, so that optimizers and scaler are there.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import FunctionType
from typing import Protocol, Unpack

import torch
from torch import Tensor, nn

from gradscope.findings import Diagnosis
from gradscope.integrations import tracking
from gradscope.integrations.extras import extra
from gradscope.integrations.lifecycle import Lifecycle, Options
from gradscope.integrations.selection import Extreme
from gradscope.integrations.tables import counts
from gradscope.scope import Scope
from gradscope.steps import GradScaler
from gradscope.units import ACTIVATION_FUNCTIONS

_ACTIVATIONS = {called.__name__ for known in ACTIVATION_FUNCTIONS for called in known.functions}


def _callback() -> type:
    """The callback's base in the one of the two packages that is in use; both go with either's trainer."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        if sys.modules.get(name) is not None:
            return import_module(name).Callback  # type: ignore[no-any-return]
    with extra("lightning", "lightning"):
        try:
            return import_module("lightning.pytorch").Callback  # type: ignore[no-any-return]
        except ModuleNotFoundError:
            return import_module("pytorch_lightning").Callback  # type: ignore[no-any-return]


class _Precision(Protocol):
    scaler: GradScaler | None  # of mixed precision only


class _Logger(Protocol):
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...


class _Trainer(Protocol):
    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    precision_plugin: _Precision
    accumulate_grad_batches: int
    global_step: int
    is_global_zero: bool
    loggers: Sequence[_Logger]


class GradscopeCallback(_callback()):  # type: ignore[misc]
    """Watches what `Trainer.fit` trains; evaluation is not recorded.

    Gradients are recorded as backward leaves them and as they are applied, so a `gradient_clip_val` shows. Steps are
    numbered as the trainer numbers them.

    Args:
        log: Sends the aggregates of each recorded step to the trainer's loggers.
        follow: Called with the scope of each training, e.g. to hand it to an experiment tracker.
        **options: As of `gradscope.attach`.
    """

    def __init__(
        self, *, log: bool = False, follow: Callable[[Scope], object] | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__()
        self._log = log
        self._lifecycle = Lifecycle(options, follow)

    @property
    def scope(self) -> Scope | None:
        """Of the training that runs, or of the last one; None before the first."""
        return self._lifecycle.scope

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What was found, or has been found so far; None before the first training."""
        return self._lifecycle.diagnosis

    def on_train_start(self, trainer: _Trainer, pl_module: nn.Module) -> None:
        """Attaches."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scope = self._lifecycle.begin(pl_module, trainer.optimizers, scaler, trainer.global_step)
        # where a wrapper of the strategy is called, it calls training_step as the module's forward
        called = _functions_called(pl_module) if trainer.model is pl_module else []
        if called:
            why = f"calls {', '.join(called)} outside of any module's forward, where functions are not seen"
            scope.blind("training_step", f"{why}; move it into `forward`")
        if self._log and trainer.is_global_zero:
            tracking.follow(scope, _Loggers(trainer.loggers))

    def on_train_batch_end(
        self, trainer: _Trainer, pl_module: nn.Module, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Records the loss."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            automatic = getattr(pl_module, "automatic_optimization", True)
            # Lightning has divided it by the number of batches of the step
            self._lifecycle.loss(loss.detach() * (trainer.accumulate_grad_batches if automatic else 1))

    def on_validation_start(self, trainer: _Trainer, pl_module: nn.Module) -> None:
        """Pauses."""
        self._lifecycle.pause()

    def on_validation_end(self, trainer: _Trainer, pl_module: nn.Module) -> None:
        """Goes on."""
        self._lifecycle.resume()

    def on_train_end(self, trainer: _Trainer, pl_module: nn.Module) -> None:
        """Detaches; the findings go to the log."""
        self._lifecycle.end(speak=trainer.is_global_zero)

    def on_exception(self, trainer: _Trainer, pl_module: nn.Module, exception: BaseException) -> None:
        """Detaches; what was recorded stays."""
        self._lifecycle.end(exception, speak=trainer.is_global_zero)

    def teardown(self, trainer: _Trainer, pl_module: nn.Module, stage: str) -> None:
        """Detaches where nothing else did."""
        self._lifecycle.end(speak=False)


def _functions_called(module: nn.Module) -> list[str]:
    """Activations that methods of a LightningModule seem to call as functions, but for its forward."""
    methods = (
        method
        for kind in type(module).__mro__
        if not kind.__module__.startswith(("lightning.", "pytorch_lightning.", "torch."))
        for method in vars(kind).values()
        if isinstance(method, FunctionType) and method.__name__ != "forward"
    )
    return sorted({name for method in methods for name in method.__code__.co_names} & _ACTIVATIONS)


class _Loggers:
    """The trainer's loggers, which take numbers only."""

    def __init__(self, loggers: Sequence[_Logger]) -> None:
        self._loggers = loggers

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.log_metrics({f"gradscope/{name}": value for name, value in values.items()}, step)

    def findings(self, step: int, diagnosis: Diagnosis, extremes: Sequence[Extreme]) -> None:
        self.numbers(step, counts(diagnosis))

    def flush(self) -> None:
        pass  # the trainer does

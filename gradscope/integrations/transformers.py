"""Hugging Face's Trainer: the callback drives the lifecycle, gradscope's own hooks read the values.

    watch = GradscopeCallback(trace="run.h5")
    Trainer(model, args, train_dataset=data, callbacks=[watch]).train()
    print(watch.diagnosis)

So the gradients are those that backward left, although the trainer clips them before any callback could look.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, Unpack

import torch
from torch import nn

from gradscope.findings import Diagnosis
from gradscope.integrations.extras import extra
from gradscope.integrations.lifecycle import Lifecycle, Options
from gradscope.scope import Scope

with extra("transformers", "transformers"):
    from transformers import TrainerCallback


class _State(Protocol):
    global_step: int
    is_world_process_zero: bool


class GradscopeCallback(TrainerCallback):  # type: ignore[misc]
    """Watches what `Trainer.train` trains; evaluation is not recorded.

    Steps are numbered as the trainer numbers them, also when it resumes. The loss of a step is what the trainer logs
    with it: with `logging_steps=10` every tenth step has one, the mean of ten.

    The trainer tells no callback that a training has raised: then it is detached by `detach()`, or when the next
    training begins.

    Args:
        follow: Called with the scope of each training, e.g. to hand it to an experiment tracker.
        **options: As of `gradscope.attach`.
    """

    def __init__(self, *, follow: Callable[[Scope], object] | None = None, **options: Unpack[Options]) -> None:
        self._lifecycle = Lifecycle(options, follow)

    @property
    def scope(self) -> Scope | None:
        """Of the training that runs, or of the last one; None before the first."""
        return self._lifecycle.scope

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What was found, or has been found so far; None before the first training."""
        return self._lifecycle.diagnosis

    def detach(self) -> None:
        """Removes every hook of a training that has raised; what was recorded stays."""
        self._lifecycle.end(speak=False)

    def on_train_begin(
        self,
        args: object,
        state: _State,
        control: object,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        **more: object,
    ) -> None:
        """Attaches."""
        scaler = getattr(optimizer, "scaler", None)  # Accelerate's wrapper has it
        self._lifecycle.begin(model, [] if optimizer is None else [optimizer], scaler, state.global_step)

    def on_log(
        self, args: object, state: _State, control: object, *, logs: Mapping[str, object], **more: object
    ) -> None:
        """Records the loss."""
        loss = logs.get("loss")
        if loss is not None:
            self._lifecycle.loss(float(loss))  # type: ignore[arg-type]  # some versions log it as text

    def on_train_end(self, args: object, state: _State, control: object, **more: object) -> None:
        """Detaches; the findings go to the log."""
        self._lifecycle.end(speak=state.is_world_process_zero)

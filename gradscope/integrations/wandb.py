"""Weights & Biases: charts under `gradscope/` over the training's own steps, findings and outstanding sites as tables.

run = wandb.init()
with gradscope.attach(model, optimizer=optimizer) as scope:
    gradscope.integrations.wandb.follow(scope, run)
    ...                                                  # the training loop, with its own run.log(…)
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gradscope.errors import UsageError
from gradscope.findings import Diagnosis
from gradscope.integrations import tracking
from gradscope.integrations.extras import extra
from gradscope.integrations.selection import Extreme
from gradscope.integrations.tables import EXTREME_COLUMNS, FINDING_COLUMNS, counts, extreme_rows, finding_rows
from gradscope.trace import Trace

with extra("trackers", "wandb"):
    import wandb

_STEP = "gradscope/step"


class Run(Protocol):
    """`wandb.Run`, as far as it is used."""

    def log(self, data: dict[str, object], *, commit: bool | None) -> None:
        """A row of the history; without `commit` a part of the row that is still open."""
        ...

    def define_metric(self, name: str, *, step_metric: str) -> object:
        """Which x axis a chart has."""
        ...


def log(recording: tracking.Recording | Trace, run: Run | None = None) -> Diagnosis:
    """Writes a finished recording, a scope's or one that was read, to `run`, by default the active one.

    Raises:
        UsageError: There is no run.
    """
    return tracking.log_recording(recording, _WeightsAndBiases(run, commit=True))


def follow(scope: tracking.Recording, run: Run | None = None, *, commit: bool = False) -> None:
    """Writes each step as it is recorded, and the findings as they change; until the scope is detached.

    Args:
        scope: What is recorded.
        run: By default the active one.
        commit: Each step is a row of its own. By default its numbers go into the next row that the training logs by
            itself, so that `gradscope` neither adds to its steps nor gets in the way of `run.log(…, step=…)`; who logs
            nothing else needs `commit=True`.

    Raises:
        UsageError: There is no run.
    """
    tracking.follow(scope, _WeightsAndBiases(run, commit=commit))


class _WeightsAndBiases:
    def __init__(self, run: Run | None, *, commit: bool) -> None:
        active: Run | None = wandb.run
        if run is None and active is None:
            raise UsageError("there is no active run of Weights & Biases; call `wandb.init()` first, or give `run=`.")
        self._run: Run = run or active  # type: ignore[assignment]  # one of the two is there
        self._commit = commit
        self._run.define_metric("gradscope/*", step_metric=_STEP)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        row: dict[str, object] = {f"gradscope/{name}": value for name, value in values.items()}
        self._run.log({_STEP: step, **row}, commit=self._commit)

    def findings(self, step: int, diagnosis: Diagnosis, extremes: Sequence[Extreme]) -> None:
        row: dict[str, object] = {f"gradscope/{name}": value for name, value in counts(diagnosis).items()}
        row["gradscope/findings"] = wandb.Table(columns=list(FINDING_COLUMNS), data=finding_rows(diagnosis))
        row["gradscope/extremes"] = wandb.Table(columns=list(EXTREME_COLUMNS), data=extreme_rows(extremes))
        self._run.log({_STEP: step, **row}, commit=self._commit)

    def flush(self) -> None:
        pass  # wandb does so by itself

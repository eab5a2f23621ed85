"""MLflow: metrics under `gradscope/`, findings and outstanding sites as artifacts.

with mlflow.start_run(), gradscope.attach(model, optimizer=optimizer) as scope:
    gradscope.integrations.mlflow.follow(scope)
    ...                                                  # the training loop, unchanged
"""

import time as clock
from collections.abc import Mapping, Sequence

from gradscope.errors import UsageError
from gradscope.findings import Diagnosis
from gradscope.integrations import tracking
from gradscope.integrations.extras import extra
from gradscope.integrations.selection import Extreme
from gradscope.integrations.tables import counts, extremes_text, findings_text
from gradscope.trace import Trace

with extra("trackers", "mlflow"):
    import mlflow
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

_BATCH = 500  # metrics sent together: each call waits for the server, which takes at most 1000


def log(recording: tracking.Recording | Trace, run_id: str | None = None) -> Diagnosis:
    """Writes a finished recording, a scope's or one that was read, to a run, by default the active one.

    Raises:
        UsageError: There is no run.
    """
    return tracking.log_recording(recording, _Mlflow(run_id))


def follow(scope: tracking.Recording, run_id: str | None = None) -> None:
    """Writes steps as they are recorded, many at a time, and the findings as they change; until the scope is detached.

    Raises:
        UsageError: There is no run.
    """
    tracking.follow(scope, _Mlflow(run_id))


class _Mlflow:
    def __init__(self, run_id: str | None) -> None:
        active = mlflow.active_run()
        if run_id is None and active is None:
            raise UsageError("there is no active run of MLflow; call `mlflow.start_run()` first, or give `run_id=`.")
        self._run_id: str = run_id or active.info.run_id
        self._client = MlflowClient()
        self._waiting: list[object] = []

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        now = int(clock.time() * 1000)
        self._waiting += [Metric(f"gradscope/{name}", value, now, step) for name, value in values.items()]
        if len(self._waiting) >= _BATCH:
            self.flush()

    def findings(self, step: int, diagnosis: Diagnosis, extremes: Sequence[Extreme]) -> None:
        self.numbers(step, counts(diagnosis))
        self.flush()
        self._client.log_dict(self._run_id, diagnosis.to_dict(), "gradscope/diagnosis.json")
        self._client.log_text(self._run_id, findings_text(diagnosis), "gradscope/findings.md")
        self._client.log_text(self._run_id, extremes_text(extremes), "gradscope/extremes.md")

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._client.log_batch(self._run_id, metrics=waiting)

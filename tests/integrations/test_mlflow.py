"""MLflow with a store in a sqlite file."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from gradscope.errors import UsageError

with warnings.catch_warnings():  # what it says of other packages while it is imported
    warnings.simplefilter("ignore")
    import mlflow as real

    from gradscope.integrations import mlflow

# MLflow 3.17 asks SQLAlchemy 2.1 for what that calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    before = real.get_tracking_uri()
    folder = tmp_path_factory.mktemp("mlflow")
    real.set_tracking_uri(f"sqlite:///{folder / 'runs.db'}")
    real.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    real.set_experiment("tests")
    yield real.MlflowClient()
    real.set_tracking_uri(before)


@pytest.mark.parametrize("live", [True, False], ids=["followed", "at the end"])
def test_metrics_and_artifacts_are_those_of_the_recording(live: bool, client, train, tmp_path: Path) -> None:
    with real.start_run() as run:
        scope = train(lambda scope: mlflow.follow(scope) if live else None, steps=70)
    if not live:
        mlflow.log(scope, run.info.run_id)
    trace, run_id = scope.trace, run.info.run_id
    for name, series in {
        "loss": trace.per_step["loss"],
        "gradient_norm_raw": trace.series("", "total_norm", "l2_norm", name="raw"),
    }.items():
        points = sorted((m.step, m.value) for m in client.get_metric_history(run_id, f"gradscope/{name}"))
        assert [step for step, _ in points] == list(range(70))
        np.testing.assert_allclose([value for _, value in points], series, rtol=1e-6, err_msg=name)
    read = json.loads(Path(client.download_artifacts(run_id, "gradscope/diagnosis.json", str(tmp_path))).read_text())
    assert {f["code"] for f in read["findings"]} == {f.code for f in scope.diagnose()}
    shown = Path(client.download_artifacts(run_id, "gradscope/extremes.md", str(tmp_path))).read_text()
    assert "| largest dead_fraction | 2:output | 1 |" in shown


def test_without_a_run_the_way_out_is_said(client, train) -> None:
    with pytest.raises(UsageError, match=r"call `mlflow.start_run\(\)` first"):
        mlflow.log(train(steps=1))

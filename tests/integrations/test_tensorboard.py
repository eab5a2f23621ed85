"""What TensorBoard reads back."""

import warnings
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():  # what it says of other packages while it is imported
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

from gradscope.integrations import tensorboard


def read(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def texts(events: EventAccumulator, tag: str) -> dict[int, str]:
    return {e.step: e.tensor_proto.string_val[0].decode() for e in events.Tensors(f"gradscope/{tag}/text_summary")}


@pytest.mark.parametrize("live", [True, False], ids=["followed", "at the end"])
def test_scalars_and_texts_are_those_of_the_recording(live: bool, tmp_path: Path, train) -> None:
    with SummaryWriter(tmp_path) as writer:
        scope = train(lambda scope: tensorboard.follow(scope, writer) if live else None)
        if not live:
            diagnosis = tensorboard.log(scope.trace, writer)
            assert diagnosis.findings == scope.diagnose().findings
    events, trace = read(tmp_path), scope.trace
    expected = {
        "loss": trace.per_step["loss"],
        "gradient_norm_raw": trace.series("", "total_norm", "l2_norm", name="raw"),
        "gradient_norm_applied": trace.series("", "total_norm", "l2_norm", name="applied"),
        "dead_fraction_largest": trace.series("2", "output", "dead_fraction"),
        "nonfinite_elements": np.zeros(20),
    }
    for name, series in expected.items():
        scalars = events.Scalars(f"gradscope/{name}")
        assert [s.step for s in scalars] == list(range(20)), name
        np.testing.assert_allclose([s.value for s in scalars], series, rtol=1e-6, err_msg=name)
    assert events.Scalars("gradscope/errors")[-1].value == sum(f.severity == "error" for f in scope.diagnose())
    findings = texts(events, "findings")
    assert list(findings) == ([15, 19] if live else [19]), "at the 16th record, and at the end"
    assert "GS301" in findings[19]
    assert "| largest dead_fraction | 2:output | 1 |" in texts(events, "extremes")[19]
    assert len(events.Tags()["scalars"]) < 20

"""What a tracker is told, and when."""

import numpy as np
import torch
from builders import trace_of
from torch import nn

import gradscope
from gradscope.integrations.tracking import follow, log_recording


class Notes:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[dict[str, float]] = []
        self.judged: list[int] = []
        self.codes: list[frozenset[str]] = []
        self.flushed = 0

    def numbers(self, step, values) -> None:
        self.steps.append(step)
        self.values.append(values)

    def findings(self, step, diagnosis, extremes) -> None:
        self.judged.append(step)
        self.codes.append(diagnosis.codes)

    def flush(self) -> None:
        self.flushed += 1


def test_of_a_long_trace_evenly_spaced_steps_are_told() -> None:
    notes = Notes()
    log_recording(trace_of(output_rms=np.ones((5000, 1)), loss=np.arange(5000.0)), notes)
    assert len(notes.steps) == 1000
    assert (notes.steps[0], notes.steps[-1]) == (0, 4999)
    assert set(np.diff(notes.steps)) <= {4, 5, 6}
    assert [v["loss"] for v in notes.values] == notes.steps
    assert notes.judged == [4999]
    assert notes.flushed == 1


def test_an_empty_recording_is_told_as_such() -> None:
    notes = Notes()
    diagnosis = log_recording(trace_of(output_rms=np.ones((0, 1)), steps=0), notes)
    assert (notes.steps, notes.judged, diagnosis.ok) == ([], [0], False)


def test_findings_are_told_when_they_change_and_at_the_end() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    notes = Notes()
    with gradscope.attach(model, optimizer=optimizer) as scope:
        follow(scope, notes)
        for step in range(140):
            if step == 20:
                nn.init.constant_(model[0].bias, -100.0)
            model(torch.randn(16, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert notes.steps == list(range(140))
    changed = [step for step in notes.judged[:-1] if step != 15]
    assert notes.judged[0] == 15, "at the 16th record"
    assert changed
    assert set(changed) <= {31, 63, 127}
    assert notes.judged[-1] == 139
    assert "GS301" not in notes.codes[0]
    assert "GS301" in notes.codes[-1]
    assert notes.flushed == 1

from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of
from rich.console import Console

from gradscope.moment import Moment
from gradscope.reports.live_text import LiveFrame, changes, progress, standing_words
from gradscope.rules.engine import diagnose
from gradscope.tail import Standing
from gradscope.trace import TraceBuilder

NAMES = [*(f"encoder.layers.{i}.a_rather_long_name" for i in range(19)), "evil\x1b[2J\nname"]
COUNTS = np.zeros((12, 20))
COUNTS[7:, 19] = 3
SICK = trace_of(
    output_grad_rms=np.tile(np.geomspace(1e-3, 1, 20), (12, 1)),
    output_rms=np.ones((12, 20)),
    output_nonfinite_count=COUNTS,
    modules=NAMES,
    loss=np.linspace(1, 0.5, 12),
    meta={"model": "Net"},
)


def moment(trace=SICK, *, standing=Standing.WRITTEN, judged=True, run=1, silent_s=0.0, rate=49.8) -> Moment:
    steps = len(trace.steps)
    return Moment(
        path="run.h5", standing=standing, run=run, recorded=steps, trace=trace,
        diagnosis=diagnose(trace) if judged else None, judged=steps, rate=rate, silent_s=silent_s,
    )  # fmt: skip


NOTHING = replace(moment(TraceBuilder().finish((), {}), standing=Standing.ABSENT, judged=False, run=0), rate=np.nan)


def frame(shown: Moment, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, force_terminal=True, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(LiveFrame(shown, "q ends the view"))
    return captured.get().splitlines()


@pytest.mark.parametrize("height", [16, 24, 40, 60])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_frame_fits_the_terminal(width: int, height: int) -> None:
    for shown in (moment(), NOTHING, moment(judged=False), moment(standing=Standing.KILLED)):
        lines = frame(shown, width, height)
        assert len(lines) < height, "with the line of the cursor"
        assert max(map(len, lines)) <= width
        assert lines[-1].startswith("q ends")


def test_it_shows_the_run_its_worst_layers_and_the_findings() -> None:
    text = "\n".join(frame(moment(), 120, 40))
    assert "Net" in text
    assert "step 11, loss 0.5, 49.8 steps/s" in text
    assert "12 steps recorded, 40 sites" in text
    assert "error GS401 non-finite" in text
    assert "since step 7" in text
    worst = next(line for line in text.splitlines() if line.startswith("evil"))
    assert "\\x1b[2J\\nname" in worst, "nothing that a terminal obeys"
    assert text.index("\nevil") < text.index("\nencoder")
    assert "and 12 more" in text


def test_how_it_stands_is_said_in_words() -> None:
    said = {one: standing_words(moment(standing=one)).plain for one in Standing}
    assert said[Standing.WRITTEN] == "training"
    assert said[Standing.ABSENT] == "the file is gone"
    assert "has died: it was killed" in said[Standing.KILLED]
    assert said[Standing.ENDED] == "the recording has ended"
    assert standing_words(moment(silent_s=40.4)).plain == "training; no new step for 40 s"
    assert standing_words(NOTHING).plain == "waiting for run.h5, which does not exist yet"


def test_each_change_is_one_line() -> None:
    healthy = moment(trace_of(output_rms=np.ones((12, 3)), meta={"model": "Net"}))
    sick, dead = moment(), moment(standing=Standing.KILLED)
    assert list(changes(None, NOTHING)) == ["waiting for run.h5, which does not exist yet"]
    assert list(changes(NOTHING, NOTHING)) == []
    assert list(changes(NOTHING, healthy)) == ["Net, 3 sites in run.h5"]
    found = list(changes(healthy, sick))
    assert len(found) == len(sick.diagnosis.roots)
    assert any(line.startswith("step 11: error GS401 non-finite") for line in found)
    assert not any("\n" in line for line in found)
    assert list(changes(sick, sick)) == []
    assert "step 11: no longer GS401 non-finite at evil\\x1b[2J\\nname" in list(changes(sick, healthy))
    (died,) = changes(sick, dead)
    assert "has died" in died
    again = list(changes(dead, replace(healthy, run=2)))
    assert again == ["a new run has begun: Net, 3 sites in run.h5"]


def test_a_loss_that_is_recorded_now_and_then_is_told_from_one_that_is_nan() -> None:
    loss = np.full(40, np.nan)
    loss[::8] = 0.25
    assert "loss 0.25" in progress(moment(trace_of(output_rms=np.ones((40, 1)), loss=loss), judged=False))
    loss[20:] = np.nan
    assert "loss nan" in progress(moment(trace_of(output_rms=np.ones((40, 1)), loss=loss), judged=False))
    assert "loss" not in progress(moment(trace_of(output_rms=np.ones((40, 1))), judged=False))

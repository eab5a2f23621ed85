from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from builders import trace_of
from examples import HEALTHY, META, SICK, diagnosis, finding, network, printed, recurrent, with_times
from rich.console import Console

from gradscope.findings import Severity
from gradscope.records import Event
from gradscope.reports.terminal import Terminal, TraceReport


@pytest.mark.parametrize(
    ("name", "trace", "said", "width"),
    [
        ("sick-80", network(0.25), SICK, 80),
        ("sick-140", network(0.25), SICK, 140),
        ("healthy-80", network(0.98, layers=5), HEALTHY, 80),
    ],
)
def test_report_of_a_trace(assert_golden, name, trace, said, width):
    assert_golden(f"report-{name}.txt", printed(TraceReport(trace, said), width=width))


@pytest.mark.parametrize("width", [80, 140])
def test_report_of_a_recurrent_network(assert_golden, width):
    trace = recurrent([0.5] * 5 + [0.8] * 5, mode="LSTM", layers=["l0", "l0_reverse", "l1", "l1_reverse"])
    assert_golden(f"report-recurrent-{width}.txt", printed(TraceReport(trace, HEALTHY), width=width))


def test_report_of_truncated_windows(assert_golden):
    text = printed(TraceReport(recurrent(0.9, window=10), HEALTHY), ascii_only=True)
    assert_golden("report-windows-ascii-80.txt", text)


def test_report_of_a_deep_net_with_nan(assert_golden):
    rms = np.full((10, 500), 1e-3)
    rms[6:, 300:] = np.nan
    nonfinite = np.isnan(rms) * 64.0
    trace = trace_of(output_grad_rms=rms, output_grad_nonfinite_count=nonfinite, loss=np.r_[[2.0] * 6, [np.nan] * 4])
    assert_golden("report-deep-nan-80.txt", printed(TraceReport(trace, diagnosis(finding(code="GS401", module="300")))))


def test_report_where_the_encoding_has_only_ascii():
    text = printed(TraceReport(network(0.25), SICK), ascii_only=True)
    assert "┤" not in text
    assert "█" not in text
    assert "#" in text


def test_one_root_with_forty_symptoms_is_a_few_lines():
    text = printed(SICK)
    assert text.count("GS302") == 1
    assert "at 6 places: layers.5, layers.6, layers.7, layers.8 and 2 more" in " ".join(text.split())


def test_a_diagnosis_alone_looks_like_its_part_of_the_report():
    alone, whole = printed(SICK), printed(TraceReport(network(0.25), SICK))
    assert alone.split("\n\n", 1)[1].strip() in whole


def test_rules_that_lack_the_same_are_named_together():
    text = " ".join(printed(SICK).split())
    assert "update-too-small, update-too-large: the trace holds no weight_update" in text
    assert "symmetric-init: the trace holds no weight" in text


def test_the_verdict_counts_roots_by_severity():
    said = diagnosis(finding(), finding(module="b"), finding(module="c", severity=Severity.WARNING))
    assert "2 errors, 1 warning" in printed(said)
    assert "healthy" in printed(HEALTHY)


def test_the_gradient_over_a_sequence_is_drawn():
    trace = with_times(network(0.9, layers=3, steps=2), np.array([0.5 ** np.arange(40)[::-1]] * 2))
    text = printed(TraceReport(trace, HEALTHY))
    assert "∂L/∂y of layers.0 by time" in text
    assert "t=0" in text
    assert "t=39" in text


def test_what_happened_to_the_recording_is_said():
    broken = replace(network(0.9), events=(Event(step=3, kind="probe-failed", module="fc", message="boom"),))
    assert "step 3: probe-failed fc boom" in printed(TraceReport(broken, HEALTHY))


def test_events_of_a_healthy_training_are_told_apart_and_counted():
    events = tuple(Event(step=i, kind="step-skipped", message="skipped by the scaler") for i in range(5))
    text = printed(TraceReport(replace(network(0.9), events=events), HEALTHY))
    assert "step 2: skipped by the scaler" in text
    assert "step 3:" not in text
    assert "step-skipped 2 more times" in text


def test_what_could_not_be_seen_stands_there_with_the_reason():
    spots = [{"module": f"m{i}", "why": "never ran"} for i in range(20)] + [{"module": "", "why": "is compiled"}]
    text = printed(TraceReport(trace_of(output_grad_rms=[1.0], meta={**META, "blind_spots": spots}), HEALTHY))
    said = " ".join(text.split())
    assert "not seen m0, m1, m2" in said
    assert "m11 and 8 more: never ran" in said
    assert "(model): is compiled" in said


def test_a_scenario_s_trace_says_which_it_is():
    trace = trace_of(output_grad_rms=[1.0], meta={"scenario": "a-vs-b", "variant": "a", "seed": 3})
    assert "a-vs-b: a, seed 3" in printed(TraceReport(trace, HEALTHY))


def test_frozen_parameters_are_told_apart():
    trace = trace_of(output_grad_rms=[1.0], meta={**META, "trainable": 45})
    assert "12,345 parameters, 45 trainable" in printed(TraceReport(trace, HEALTHY))


def test_brackets_in_names_are_not_markup():
    text = printed(diagnosis(finding(module="a[bold]b", message="[red]x[/red]", cause="", remedy="")))
    assert "a[bold]b" in text
    assert "[red]x[/red]" in text


def test_a_terminal_gets_colour_and_no_color_is_honoured(monkeypatch):
    def colour(**environment):
        stream = StringIO()
        Console(file=stream, force_terminal=True, width=80, _environ={"TERM": "xterm-256color", **environment}).print(
            SICK
        )
        return "\x1b[1;31m" in stream.getvalue() or "\x1b[31m" in stream.getvalue()

    assert colour()
    assert not colour(NO_COLOR="1")


def test_written_to_a_file_and_into_a_folder(tmp_path):
    report = Terminal()
    (path,) = report.write(network(0.25), SICK, tmp_path / "a.txt")
    assert "GS101" in path.read_text(encoding="utf-8")
    assert "\x1b" not in path.read_text(encoding="utf-8")
    (path,) = report.write(network(0.25), SICK, tmp_path)
    assert path == tmp_path / "report.txt"

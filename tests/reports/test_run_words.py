"""What is said of a recording, whichever view says it."""

from dataclasses import replace

from builders import trace_of
from examples import META, network

from gradscope.records import Event
from gradscope.reports.run_words import blind_spots, events, optimizers, parameters, particulars, recorded


def test_model_size_optimizer_and_steps_are_said_in_this_order():
    assert list(particulars(network(0.9))) == [
        "MLP",
        "12,345 parameters",
        "Adam lr 0.001",
        "10 steps recorded (0 to 9)",
        "30 sites",
    ]


def test_a_scenario_comes_first_and_what_is_not_known_is_left_out():
    trace = trace_of(steps=1, output_rms=[1.0], meta={"scenario": "a-vs-b", "variant": "a", "seed": 3})
    assert list(particulars(trace)) == ["a-vs-b: a, seed 3", "1 step recorded", "1 sites"]
    assert parameters(trace) == ""
    assert optimizers(trace) == []


def test_frozen_parameters_are_told_apart():
    assert parameters(trace_of(output_rms=[1.0], meta={**META, "trainable": 45})) == "12,345 parameters, 45 trainable"


def test_the_span_is_of_step_numbers():
    assert recorded(trace_of(steps=4, every=50, output_rms=[1.0])) == "4 steps recorded (0 to 150)"


def test_an_optimizer_of_which_only_the_name_is_known():
    assert optimizers(trace_of(output_rms=[1.0], meta={"optimizers": ["SGD"]})) == [{"type": "SGD"}]


def test_blind_spots_that_are_none_are_none():
    spots = [{"module": "", "why": "is compiled"}, {"module": "a", "why": "never ran"}, "nonsense"]
    trace = trace_of(output_rms=[1.0], meta={"blind_spots": spots})
    assert blind_spots(trace) == [("(model)", "is compiled"), ("a", "never ran")]
    assert blind_spots(network(0.9)) == []


def test_events_are_counted_by_kind_and_the_ordinary_told_apart():
    skipped = tuple(Event(step=i, kind="step-skipped", message="skipped by the scaler") for i in range(5))
    broken = Event(step=3, kind="probe-failed", module="fc", message="boom")
    said = list(events(replace(network(0.9), events=(*skipped, broken))))
    assert said[0] == ("step 0: skipped by the scaler", True)
    assert said[3] == ("step-skipped 2 more times", True)
    assert said[4] == ("step 3: probe-failed fc boom", False)

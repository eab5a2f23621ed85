import pytest
from examples import network, printed, recurrent
from rich.console import Group

from gradscope.records import Event
from gradscope.reports.bars import ASCII
from gradscope.reports.through_time import through_time


def shown(trace, width=80, **more):
    return printed(Group(*through_time(trace, width, **more)), width=width).splitlines()


def line_of(name, trace):
    (line,) = (line for line in shown(trace) if line.startswith(f"{name} "))
    return line.split()


def test_a_line_for_each_layer_and_direction():
    lines = shown(recurrent(0.5, layers=["l0", "l0_reverse", "l1", "l1_reverse"]))
    assert [line[:14].strip() for line in lines[3:7]] == ["rnn l0", "rnn l0 reverse", "rnn l1", "rnn l1 reverse"]


def test_the_numbers_of_a_layer():
    _, line, *numbers = line_of("rnn", recurrent(0.5))
    assert line[0] == "▁"
    assert line[-1] == "█"
    assert numbers == ["0.5", "1", "10", "39", "0.9", "1.4"]


def test_a_gate_has_its_opening_and_its_time_constant():
    *_, opening, constant, _, _ = line_of("rnn", recurrent(mode="LSTM"))
    assert opening == "0.90"
    assert constant == "9.49"


def test_a_memory_beyond_the_sequence_is_not_guessed():
    assert line_of("rnn", recurrent(1.0))[3:6] == [">39", ">39", "39"]


def test_in_reverse_the_line_falls_to_the_right():
    lines = shown(recurrent(0.5, layers=["l0_reverse"]))
    assert any("█" in line.split()[1][:1] for line in lines if line.startswith("rnn "))
    assert "travels to the right" in " ".join(lines)


def test_what_training_changed_is_said():
    text = " ".join(" ".join(shown(recurrent([0.5] * 5 + [0.8] * 5, steps=10))).split())
    assert "rnn: memory 10 → 31 over the run, gain 0.5 → 0.8" in text
    assert "over the run" not in " ".join(shown(recurrent(0.5)))


def test_steps_that_broke_are_counted_and_the_others_drawn():
    trace = recurrent([0.5, 0.5, float("inf")], steps=3)
    assert "✗" not in line_of("rnn", trace)[1]
    assert "rnn: NaN or Inf in 1 of 3 steps" in " ".join(shown(trace))


def test_a_gradient_that_ends_in_zeros_shows_them():
    assert line_of("rnn", recurrent(1e-9, length=20))[1].startswith("0")


def test_an_approximation_is_said():
    event = Event(step=0, kind="approximate", module="rnn", message="the mask cannot be had")
    assert "the mask cannot be had" in " ".join(shown(recurrent(events=[event])))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("length", [8, 40, 500])
def test_no_line_is_wider_than_the_terminal(width, length):
    lines = shown(recurrent(0.9, mode="LSTM", layers=["l0", "l0_reverse"], length=length), width)
    assert max(map(len, (line.rstrip() for line in lines))) <= width


def test_it_is_legible_in_ascii():
    text = "\n".join(shown(recurrent(0.5, layers=["l0", "l1_reverse"]), glyphs=ASCII))
    assert text.isascii()
    assert "rnn l1 reverse" in text


def test_a_network_without_recurrence_has_no_such_section():
    assert shown(network(0.5)) == []

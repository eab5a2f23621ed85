from dataclasses import replace

import numpy as np
import pytest
from examples import HEALTHY, SICK, comparison, diagnosis, finding, network, printed, recurrent, variant, with_times

from gradscope.exhibits import Exhibit
from gradscope.findings import Severity
from gradscope.reports.comparison import ComparedRun, ComparedVariant
from gradscope.reports.side_by_side import ComparisonReport


@pytest.mark.parametrize("width", [80, 100, 140])
def test_comparison(assert_golden, width):
    assert_golden(f"comparison-{width}.txt", printed(ComparisonReport(comparison()), width=width))


def test_comparison_of_several_seeds(assert_golden):
    assert_golden("comparison-3-seeds-100.txt", printed(ComparisonReport(comparison(seeds=3)), width=100))


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width):
    text = printed(ComparisonReport(comparison(seeds=5)), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_a_comparison_in_ascii():
    text = printed(ComparisonReport(comparison()), ascii_only=True)
    assert "ok sigmoid" in text
    assert "██" not in text


def test_what_is_not_as_expected_is_said():
    variants = (
        variant("healed", 0.9, HEALTHY, expect=frozenset({"GS101"})),
        variant("ill", 0.25, SICK, forbid=frozenset({"GS101"})),
    )
    text = printed(ComparisonReport(comparison(variants=variants)))
    assert text.splitlines()[0].endswith("not as expected")
    assert "healed, seed 0, does not show GS101" in text
    assert "ill, seed 0, must not show GS101" in text
    assert "✗ ill" in text


def test_variants_with_the_same_cause_and_remedy_share_them():
    said = diagnosis(finding())
    text = printed(ComparisonReport(comparison(variants=(variant("a", 0.2, said), variant("b", 0.25, said)))))
    assert text.count("remedy") == 1
    assert "healthy" not in text


def test_the_worst_findings_stand_first():
    mild = diagnosis(finding(code="GS304", pathology="forward-variance-collapse", severity=Severity.WARNING))
    text = printed(ComparisonReport(comparison(variants=(variant("a", 0.9, mild), variant("b", 0.25, SICK)))))
    assert text.index("error GS101") < text.index("warning GS304")


def test_a_number_that_does_not_exist_is_a_dash():
    line = next(line for line in printed(ComparisonReport(comparison())).splitlines() if line.startswith("✓ tanh"))
    assert "–" in line
    assert "nan" not in line


def test_recurrent_models_side_by_side(assert_golden):
    def run(trace):
        return (ComparedRun(seed=0, trace=trace, diagnosis=HEALTHY, loss_first=1.0, loss_last=0.1, metrics={}),)

    variants = (
        ComparedVariant(name="rnn", runs=run(recurrent(0.5))),
        ComparedVariant(name="lstm", runs=run(recurrent(0.99, mode="LSTM"))),
    )
    assert_golden("comparison-by-time-80.txt", printed(ComparisonReport(comparison(variants=variants))))


def test_inputs_are_compared_by_time_where_no_state_was_observed():
    def run(gain):
        trace = with_times(network(0.9, layers=3, steps=2), np.array([gain ** np.arange(50)[::-1]] * 2))
        return (ComparedRun(seed=0, trace=trace, diagnosis=HEALTHY, loss_first=1.0, loss_last=0.1, metrics={}),)

    variants = (ComparedVariant(name="rnn", runs=run(0.5)), ComparedVariant(name="lstm", runs=run(0.99)))
    text = printed(ComparisonReport(comparison(variants=variants)))
    assert "by time" in text
    assert "by depth" not in text
    assert "last to first ×1.8e-15" in text


EXHIBIT = Exhibit(
    title="Back",
    heads=("t", "local", "carried", "norm"),
    rows=(("0", (0.25, -1 / 3), (0.0, -1e-9), 0.41667), ("1", (1.0, 12.5), "", float("nan"))),
    note="local is of t alone",
)


def with_exhibit(seeds=1):
    one = variant("rnn", 0.9, HEALTHY, seeds=seeds)
    runs = tuple(replace(run, exhibits=(EXHIBIT,)) for run in one.runs)
    return ComparisonReport(comparison(seeds=seeds, variants=(replace(one, runs=runs),)))


def test_exact_numbers_are_shown_once_after_the_table():
    text = printed(with_exhibit(seeds=2))
    lines = text[text.index("Back   rnn") :].splitlines()
    assert lines[1].split() == ["t", "local", "carried", "norm"]
    assert lines[3].split() == ["0", "0.2500", "−0.3333", "0.0000", "0.0000", "0.4167"]
    assert lines[4].split() == ["1", "1.0000", "12.5000", "–"]
    assert lines[5] == "local is of t alone"
    assert text.count("Back   rnn") == 1


def test_exact_numbers_that_do_not_fit_go_on_below_with_the_names_of_their_rows():
    lines = printed(with_exhibit(), width=30).splitlines()
    heads = [line.split() for line in lines if line.startswith("t ")]
    assert heads == [["t", "local"], ["t", "carried", "norm"]]


def test_exact_numbers_in_ascii():
    text = printed(with_exhibit(), ascii_only=True)
    assert "0.2500 -0.3333" in text

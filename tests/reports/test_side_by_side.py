import numpy as np
import pytest
from examples import HEALTHY, SICK, comparison, diagnosis, finding, network, printed, recurrent, variant, with_times

from gradscope.findings import Severity
from gradscope.reports.comparison import ComparedRun, ComparedVariant
from gradscope.reports.side_by_side import ComparisonReport


@pytest.mark.parametrize("width", [80, 100, 140])
def test_comparison(golden, width):
    golden(f"comparison-{width}.txt", printed(ComparisonReport(comparison()), width=width))


def test_comparison_of_several_seeds(golden):
    golden("comparison-3-seeds-100.txt", printed(ComparisonReport(comparison(seeds=3)), width=100))


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


def test_recurrent_models_side_by_side(golden):
    def run(trace):
        return (ComparedRun(seed=0, trace=trace, diagnosis=HEALTHY, loss_first=1.0, loss_last=0.1, metrics={}),)

    variants = (
        ComparedVariant(name="rnn", runs=run(recurrent(0.5))),
        ComparedVariant(name="lstm", runs=run(recurrent(0.99, mode="LSTM"))),
    )
    golden("comparison-by-time-80.txt", printed(ComparisonReport(comparison(variants=variants))))


def test_inputs_are_compared_by_time_where_no_state_was_observed():
    def run(gain):
        trace = with_times(network(0.9, layers=3, steps=2), np.array([gain ** np.arange(50)[::-1]] * 2))
        return (ComparedRun(seed=0, trace=trace, diagnosis=HEALTHY, loss_first=1.0, loss_last=0.1, metrics={}),)

    variants = (ComparedVariant(name="rnn", runs=run(0.5)), ComparedVariant(name="lstm", runs=run(0.99)))
    text = printed(ComparisonReport(comparison(variants=variants)))
    assert "by time" in text
    assert "by depth" not in text
    assert "last to first ×1.8e-15" in text

"""The sentences of a difference."""

from dataclasses import replace

import pytest
from builders import trace_of
from differences import STEPS, everything, nothing, recorded
from examples import finding

from gradscope.changes import STANDSTILL, Measure, Middle
from gradscope.difference import difference
from gradscope.reports.difference_words import about, by, headline, named, over, remarks, symptoms_of, value


def test_the_headline_counts_what_differs():
    assert headline(everything()) == (
        "1 finding appeared (1 error), 1 vanished, 1 moved, 1 changed severity, 3 layers changed markedly"
    )
    assert headline(nothing()) == "no difference"


def test_a_layer_that_changes_in_several_ways_is_counted_once():
    found = everything()
    change = next(change for change in found.changes if change.measure is Measure.GAIN)
    in_time = replace(change, module=f"{change.layer} l0 per time step")
    of_both = replace(found, compared=replace(found.compared, changes=(change, in_time)))
    assert headline(of_both).endswith(", 1 layer changed markedly")
    assert over(of_both).startswith("1 layer compared")


def test_models_that_only_have_other_modules_are_said_to_be_the_same_in_what_both_have():
    a, b = (trace_of(steps=STEPS, modules=list(names), output_rms=[1.0] * len(names)) for names in ("ab", "ac"))
    found = difference(recorded("a", a), recorded("b", b))
    assert headline(found) == "no difference in what both have"
    assert list(remarks(found)) == ["only in A: 1 module: b", "only in B: 1 module: c"]


def test_models_without_a_common_module_are_called_so():
    a, b = (trace_of(steps=STEPS, modules=[name], output_rms=[1.0]) for name in "ab")
    assert next(remarks(difference(recorded("a", a), recorded("b", b)))) == "the models have no module in common"


@pytest.mark.parametrize(
    ("every", "said"),
    [(1, ""), (2, ", every 2nd recorded"), (10, ", every 10th recorded"), (21, ", every 21st recorded")],
)
def test_about_a_run(every, said):
    trace = trace_of(steps=3, every=every, modules=["fc"], output_rms=[1.0], meta={"model": "Net", "every": every})
    assert about(recorded("run", trace)) == f"Net, steps 0 to {2 * every}{said}: no finding"
    assert about(recorded("run", trace, finding())).endswith(": 1 error")


@pytest.mark.parametrize(("measure", "median", "shown"), [
    (Measure.GAIN, -0.602, "×0.25"),
    (Measure.GAIN, -400.0, "×10^-400"),
    (Measure.DEAD, 0.853, "85%"),
    (Measure.UPDATE, -3.5, "3.2e-04"),
    (Measure.UPDATE, STANDSTILL, "≤ 1e-06"),
])  # fmt: skip
def test_numbers_as_a_person_reads_them(measure, median, shown):
    assert value(measure, median) == shown


def test_how_far_a_change_goes():
    change = everything().changes[0]
    down = replace(change, a=Middle(0.0, 0, 0, 9), b=Middle(-1.0, 0, 0, 9))
    assert by(down) == "−1.00 decades"
    assert by(replace(down, measure=Measure.DEAD)) == "−100 points"


def test_over_which_steps():
    assert over(nothing()) == "3 layers compared over steps 0 to 19, which both runs have"
    apart = replace(nothing(), shared=False)
    assert over(apart).endswith("compared over steps 0 to 19: the runs have too few steps in common")


def test_symptoms_are_counted_by_rule():
    found = everything()
    assert symptoms_of(found.appeared[0], found.appeared) == "hence GS103 at 1 place"
    assert symptoms_of(found.appeared[1], found.appeared) == ""


def test_many_names_end_in_a_number():
    assert named(["a", "b", "c"], 2) == "a, b and 1 more"
    assert named(["a\nb"]) == "a\\nb"

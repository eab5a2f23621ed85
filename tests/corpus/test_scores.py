"""How right gradscope is about the half of the corpus that it was tuned on; `scorer` reports on the other half."""

import pytest
from corpus.case import is_held_out, root
from corpus.scorer import Score, all_names, scores, table

from gradscope.findings import Finding, Role, Severity


@pytest.mark.slow
def test_the_tuned_half_is_diagnosed_as_labelled() -> None:
    found = scores(name for name in all_names() if not is_held_out(name))
    wrong = "\n".join(str(one) for one in found if not one.right)
    figures = table(found)
    assert figures["sick"] >= 60, "half of the corpus is missing"
    assert figures["recall"] >= 0.97, wrong
    assert figures["root kind"] >= 0.9, wrong
    assert figures["module"] >= 0.9, wrong
    assert figures["roots a case"] <= 2, wrong
    assert figures["false alarms"] <= 0.03, wrong
    assert figures["false alarms on twins"] <= 0.03, wrong


def finding(module: str, role: Role = Role.ROOT) -> Finding:
    return Finding(
        code="GS301",
        pathology="dead-units",
        severity=Severity.ERROR,
        module=module,
        sites=(),
        first_step=0,
        last_step=9,
        measured=1.0,
        threshold=0.75,
        unit="share of units",
        message="",
        cause="",
        remedy="",
        role=role,
    )


def test_the_table_counts_shares_of_each_kind() -> None:
    found = [
        Score(name="s_a", found=(finding("a"),), recalled=True, kind=True, place=True),
        Score(name="s_b", found=(finding("a"), finding("b")), recalled=True, kind=True, place=False),
        Score(name="s_c", found=(finding("a", Role.SYMPTOM),), recalled=True, kind=False, place=False),
        Score(name="s_d", found=(), recalled=False, kind=False, place=False),
        Score(name="t_a", found=(finding("a"),), alarms=(finding("a"),)),
        Score(name="t_b", found=()),
        Score(name="h_a", found=(finding("a"),)),  # tolerated
    ]
    figures = table(found)
    assert (figures["recall"], figures["root kind"], figures["module"]) == (0.75, 0.5, 0.25)
    assert (figures["false alarms"], figures["false alarms on twins"]) == (0, 0.5)
    assert figures["roots a case"] == 0.5
    assert [one.right for one in found] == [True, False, False, False, False, True, True]


@pytest.mark.parametrize(
    ("pattern", "module", "fits"),
    [
        (r"fc\d", "fc1", True),
        (r"fc\d", "fc1.weight", True),
        (r"fc\d", "head", False),
        (r"rnn", "rnn.weight_hh_l0", True),
        (r"fc", "fc1", False),
        ("", "anything", True),
        ("|a", "", True),
    ],
)
def test_a_label_fits_modules_and_their_parameters(pattern: str, module: str, fits: bool) -> None:
    assert root("dead-units", pattern).fits(module) is fits

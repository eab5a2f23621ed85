import re

import pytest

from gradscope.catalogue import EVERY_CODE, PATHOLOGIES, reach
from gradscope.rules import RULES


def test_codes_and_names_are_unique_and_in_order():
    codes = [one.code for one in PATHOLOGIES]
    assert codes == sorted(set(codes))
    assert len({one.name for one in PATHOLOGIES}) == len(PATHOLOGIES) == len(EVERY_CODE) == 23
    for one in PATHOLOGIES:
        assert re.fullmatch(r"GS[1-6]\d\d", one.code)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", one.name)
        assert one.meaning
        assert not one.meaning.endswith(".")


def test_every_built_in_rule_has_its_name_from_here():
    names = {one.code: one.name for one in PATHOLOGIES}
    assert {rule.code: rule.name for rule in RULES}.items() <= names.items()


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("ALL", 0),
        ("G", 1),
        ("GS", 2),
        ("GS30", 4),
        ("GS301", 5),
        ("dead-units", 5),
        ("GS3011", None),
        ("dead", None),
        ("S301", None),
        ("gs301", None),
        ("", None),
    ],
)
def test_a_selector_reaches_a_rule_by_its_name_or_the_beginning_of_its_code(selector, expected):
    assert reach(selector, "GS301", "dead-units") == expected

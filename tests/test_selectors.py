import pytest

from gradscope.selectors import reach


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

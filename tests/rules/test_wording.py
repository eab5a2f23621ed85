import pytest

from gradscope.rules.wording import both, count, number

NUMBERS = [
    (334.2, "330"), (5061, "5100"), (0.2, "0.2"), (1.04, "1"), (0.00312, "0.0031"), (12.6, "13"), (2.1e7, "2.1e+07"),
    (5.2e-5, "5.2e-05"), (0.0, "0"), (-41.7, "-42"), (float("nan"), "nan"), (float("inf"), "inf"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), NUMBERS)
def test_a_number_has_two_digits_and_rarely_an_exponent(value, text):
    assert number(value) == text


def test_two_numbers_have_a_third_digit_where_they_look_the_same():
    assert both(1.0231, 0.9987) == ("1.02", "0.999")
    assert both(1.0231, 0.8987) == ("1", "0.9")
    assert both(2.0, 2.0) == ("2", "2")


def test_one_is_singular():
    assert (count(1, "weight"), count(2, "weight")) == ("1 weight", "2 weights")

from examples import HEALTHY, SICK, comparison, variant


def test_expected_and_absent_forbidden_codes_are_as_expected():
    assert comparison().as_expected
    assert variant("a", 0.25, SICK, expect=frozenset({"GS101", "GS302"})).complaints == ()


def test_a_missing_code_is_a_complaint_for_each_seed():
    one = variant("a", 0.9, HEALTHY, seeds=2, expect=frozenset({"GS101"}))
    assert one.complaints == ("a, seed 0, does not show GS101", "a, seed 1, does not show GS101")
    assert not comparison(seeds=2, variants=(one,)).as_expected


def test_a_forbidden_code_is_a_complaint():
    one = variant("a", 0.25, SICK, forbid=frozenset({"GS302", "GS999"}))
    assert one.complaints == ("a, seed 0, must not show GS302",)

"""Every sick case is sick by its own measurement, and its repaired twin is not: it learns."""

import math

import pytest
from corpus import cases
from corpus.case import CASES, ends, get, train

SICK = sorted(name for name in CASES if name.startswith("s_"))

# The share of its first loss that a twin's last loss may have, where 0.7 is not the promise.
LEFT: dict[str, float] = {}

# Cases whose measurement does not apply to the twin.
NO_MEASURE: frozenset[str] = frozenset()


def test_the_modules_of_the_cases_hold_them_all() -> None:
    assert {make.__module__ for make in CASES.values()} <= {module.__name__ for module in cases.MODULES}


@pytest.mark.parametrize("name", SICK)
def test_a_sick_case_proves_its_fault_and_its_twin_has_not_got_it(name: str) -> None:
    case, twin = get(name), get("t_" + name[2:])
    assert case.verify is not None
    assert any(label.role == "root" for label in case.expect)
    assert case.verify(case)["sick"] is True
    if name not in NO_MEASURE:
        assert case.verify(twin)["sick"] is False


@pytest.mark.parametrize("name", SICK)
def test_a_twin_learns(name: str) -> None:
    _, losses = train(get("t_" + name[2:]))
    assert all(map(math.isfinite, losses))
    first, last = ends(losses)
    assert last < LEFT.get(name, 0.7) * first

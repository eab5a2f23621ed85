import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.errors import UsageError
from gradscope.schedule import Every, LogSpaced, as_schedule


@given(n=st.integers(1, 50), start=st.integers(0, 10**6))
def test_every_n_records_one_of_n_steps_in_a_row(n: int, start: int) -> None:
    assert sum(map(Every(n), range(start, start + n))) == 1


@given(st.integers(1, 10**9))
def test_the_first_step_is_always_recorded(n: int) -> None:
    assert Every(n)(0)
    assert LogSpaced(dense=1, per_decade=1)(0)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2", None])
def test_a_number_that_records_nothing_is_an_error(every: object) -> None:
    with pytest.raises(UsageError, match=r"^`every=.*` must be a whole number of at least 1; 1 records every step\.$"):
        as_schedule(every)


@pytest.mark.parametrize("arguments", [{"dense": 0}, {"per_decade": 0}])
def test_log_spacing_without_steps_is_an_error(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must record at least one step"):
        LogSpaced(**arguments)


@given(dense=st.integers(1, 100))
def test_the_dense_steps_are_all_recorded(dense: int) -> None:
    assert all(map(LogSpaced(dense=dense, per_decade=1), range(dense)))


@pytest.mark.parametrize("per_decade", [1, 2, 7, 20])
def test_a_decade_has_as_many_steps_as_asked_for(per_decade: int) -> None:
    schedule = LogSpaced(dense=1, per_decade=per_decade)
    for decade in (100, 1000, 10_000):
        assert sum(map(schedule, range(decade + 1, 10 * decade + 1))) == per_decade


@given(step=st.integers(2, 10**6), per_decade=st.integers(1, 30))
def test_a_log_spaced_step_is_the_first_behind_a_mark(step: int, per_decade: int) -> None:
    # between step − 1 and step lies a whole number of per_decade-ths of a decade
    def marks(x: int) -> float:
        return per_decade * math.log10(x)

    below, at = marks(step - 1), marks(step)
    if abs(at - round(at)) < 1e-9 or abs(below - round(below)) < 1e-9:
        return  # on a mark, where floats cannot tell; the next test is about these
    assert LogSpaced(dense=1, per_decade=per_decade)(step) == (math.floor(at) > math.floor(below))


def test_powers_of_ten_are_recorded() -> None:
    assert all(LogSpaced(dense=1, per_decade=1)(10**k) for k in range(1, 15))


def test_a_fine_spacing_of_a_long_run_is_no_error() -> None:
    assert LogSpaced(dense=1, per_decade=2000)(10**6)


def test_a_function_is_a_schedule() -> None:
    def odd(step: int) -> bool:
        return step % 2 == 1

    assert as_schedule(odd) is odd
    assert as_schedule(3) == Every(3)

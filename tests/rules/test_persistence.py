import numpy as np
import pytest

from gradscope.rules.persistence import persistence, standing

ALL = np.ones(40, dtype=bool)


def sick(*steps, n=40):
    flags = np.zeros(n, dtype=bool)
    flags[list(steps)] = True
    return flags


LASTS = {
    "from the start to the end": sick(*range(40)),
    "a third of the run, then healed": sick(*range(13)),
    "only the end": sick(*range(34, 40)),
}
HEALS = {"one spike": sick(7), "the first steps": sick(0, 1, 2), "nothing": sick(), "scattered": sick(3, 12, 21, 30)}


@pytest.mark.parametrize("flags", LASTS.values(), ids=LASTS)
def test_a_fault_that_lasts_is_one(flags):
    lasting = persistence(flags, ALL)
    assert lasting is not None
    assert (lasting.first, lasting.last) == (np.flatnonzero(flags)[0], np.flatnonzero(flags)[-1])
    assert lasting.standing == flags[-1]


@pytest.mark.parametrize("flags", HEALS.values(), ids=HEALS)
def test_a_fault_that_heals_at_once_is_none(flags):
    assert persistence(flags, ALL) is None


def test_steps_that_could_not_be_judged_do_not_count():
    known = np.arange(40) < 2  # after that, the run has diverged
    lasting = persistence(sick(0, 1), known)
    assert lasting is not None
    assert lasting.share == 1
    assert lasting.standing


def test_what_is_measured_rarely_stands_if_the_last_two_measurements_show_it():
    known = np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    sick = np.array([1, 0, 0, 1, 0, 1], dtype=bool)
    found = standing(sick, known)
    assert found is not None
    assert (found.first, found.last, found.rows.tolist(), found.share) == (3, 5, [3, 5], 0.5)
    assert standing(sick[:5], known[:5]) is None
    assert standing(~sick, known) is None

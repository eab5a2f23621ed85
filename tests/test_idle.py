import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradscope.idle import WINDOW, IdleUnits

history = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=14)


@given(history, history)
def test_a_unit_is_dead_that_was_silent_in_each_step_of_the_window(first, second):
    """Two sites in changing order, the second in some steps only; the reference looks back at every step."""
    idle = IdleUnits()
    seen = {0: [], 1: []}
    for step, silent in enumerate(first):
        present = {0: silent} | ({1: second[step]} if step < len(second) and step % 3 != 1 else {})
        order = sorted(present, reverse=step % 2 == 0)
        dead = idle.count([(site, 3) for site in order], np.concatenate([present[site] for site in order]))
        for site, units in present.items():
            seen[site].append(units)
            assert dead[site] == np.array(seen[site])[-WINDOW:].all(axis=0).mean()


def test_nothing_seen_is_nothing_counted():
    assert IdleUnits().count([], np.zeros(0, dtype=bool)) == {}


def test_a_site_that_changes_its_width_begins_anew():
    idle = IdleUnits()
    idle.count([(0, 1)], np.array([False]))
    assert idle.count([(0, 2)], np.array([True, False])) == {0: 0.5}

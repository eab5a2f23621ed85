"""What tries to trip whoever watches: nothing of it reaches the training, and nothing of gradscope fails or stays."""

from collections.abc import Callable

import pytest
from adversarial_loops import LOOPS
from adversarial_modules import ADVERSARIES
from watching import Training, assert_harmless


@pytest.mark.parametrize("make", ADVERSARIES.values(), ids=ADVERSARIES)
def test_a_module_is_watched_all_the_same(make: Callable[[], Training]) -> None:
    assert_harmless(make)


@pytest.mark.parametrize("make", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_watched_all_the_same(make: Callable[[], Training]) -> None:
    assert_harmless(make)

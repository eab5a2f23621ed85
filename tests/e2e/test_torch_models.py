"""Attach, train, diagnose: models written with torch alone, and modules that take and return odd things."""

from collections.abc import Callable

import pytest
from odd_modules import MODULES
from torch_models import MODELS
from watching import Training, assert_harmless


@pytest.mark.parametrize("make", (MODELS | MODULES).values(), ids=MODELS | MODULES)
def test_a_model_is_watched_without_a_trace(make: Callable[[], Training]) -> None:
    assert_harmless(make)

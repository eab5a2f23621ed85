"""Options and fixtures for all tests."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import browser as browser

# before anybody imports torch, here or in a child process: the workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest.register_assert_rewrite("watching")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what is printed now")


@pytest.fixture
def assert_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with tests/golden/<name>, blanks at the ends of lines apart."""

    def check(name: str, text: str) -> None:
        text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no {path}; write it with --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; look at it, then --update-golden"

    return check

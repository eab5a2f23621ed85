"""Chromium without a window, for the tests of pages: `browser` is the fixture, `visit` opens a page and listens.

def test_the_page_is_quiet(browser, tmp_path):
    with visit(browser, tmp_path / "report.html") as visited:
        visited.page.click("summary")
        assert not visited.requests
        assert not visited.complaints
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Where it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


# Not for the whole session: between two calls playwright's event loop counts as running, and an `asyncio.run` of
# another file's tests in the same worker would raise.
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A Chromium; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = chromium()
    if executable is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable)
        yield launched
        launched.close()


@dataclass
class Visit:
    """A page that was opened.

    Attributes:
        page: Playwright's.
        requests: Addresses that it asked for, its own and data within it apart.
        complaints: Warnings and errors of its console, and exceptions that nobody caught.
    """

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def visit(
    browser: "Browser",
    page: Path | str,
    *,
    width: int = 1200,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
) -> Iterator[Visit]:
    """Opens a file, or an address, in a window of its own; without `scripts` as where JavaScript is switched off."""
    address = page if isinstance(page, str) else page.resolve().as_uri()
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts
    )
    visited = Visit(context.new_page())
    visited.page.on("request", lambda request: _note(visited.requests, request.url, address))
    visited.page.on("console", lambda said: said.type in ("error", "warning") and visited.complaints.append(said.text))
    visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    try:
        visited.page.goto(address)
        yield visited
    finally:
        context.close()


def _note(requests: list[str], url: str, own: str) -> None:
    if url.partition("#")[0] != own.partition("#")[0] and not url.startswith(("data:", "blob:")):
        requests.append(url)

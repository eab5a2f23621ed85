"""The page of a difference in a browser."""

import pytest
from browser import visit
from differences import ODD, everything

from gradscope.reports.difference_page import difference_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "diff.html"
    path.write_text(difference_page(everything(ODD)), encoding="utf-8")
    return path


def test_it_draws_both_lines_asks_for_nothing_and_runs_nothing(browser, page):
    with visit(browser, page) as visited:
        visited.page.evaluate("gradscope.embedAll()")
        figure = visited.page.locator("[data-figure][data-embedded=yes]")
        figure.wait_for()
        assert figure.bounding_box()["height"] > 300
        assert visited.page.locator("img").count() == 0
        assert "onerror" in visited.page.locator("#modules").inner_text()
        assert not visited.requests
        assert not visited.complaints


def test_nothing_is_wider_than_a_narrow_window(browser, page):
    with visit(browser, page, width=500) as visited:
        visited.page.evaluate("gradscope.embedAll()")
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 500


def test_without_scripts_findings_and_tables_are_there(browser, page):
    with visit(browser, page, scripts=False) as visited:
        assert "GS301 dead-units" in visited.page.inner_text("main")
        assert visited.page.locator("#layers table").count() == 3

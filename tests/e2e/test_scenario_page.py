"""The page of a scenario in a browser."""

from dataclasses import replace

import numpy as np
import pytest
from browser import visit
from builders import trace_of
from examples import HEALTHY, SICK, comparison, variant

from gradscope.reports.comparison_page import comparison_page

ODD = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    odd = variant(ODD, 0.25, SICK, seeds=2, expect=frozenset({"GS101"}))
    count = np.zeros((10, 15))
    count[4, 3] = 1
    rms = np.where(count > 0, np.nan, 1e-2)
    broken = replace(
        variant("broken", 0.9, HEALTHY, seeds=2),
        runs=tuple(
            replace(run, trace=trace_of(
                modules=[f"{ODD}{i}" for i in range(15)], output_grad_rms=rms, output_grad_nonfinite_count=count,
                loss=np.r_[np.ones(9), np.inf],
            ))
            for run in variant("broken", 0.9, HEALTHY, seeds=2).runs
        ),
    )  # fmt: skip
    empty = replace(
        variant("empty", 0.9, HEALTHY, seeds=2),
        runs=tuple(
            replace(run, trace=trace_of(weight_rms=[1.0])) for run in variant("empty", 0.9, HEALTHY, seeds=2).runs
        ),
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(comparison_page(comparison(seeds=2, variants=(odd, broken, empty))), encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    return path


def drawn(visited):
    visited.page.evaluate("gradscope.embedAll()")
    return visited.page.wait_for_function(
        "[...document.querySelectorAll('[data-figure]')].every((one) => one.dataset.embedded)"
    )


def test_it_draws_every_figure_asks_for_nothing_and_runs_nothing(browser, page):
    with visit(browser, page) as visited:
        drawn(visited)
        assert visited.page.locator(".compared[data-embedded=yes]").count() == 2
        assert visited.page.locator(".map[data-embedded=yes]").count() == 2
        assert visited.page.locator("img").count() == 0
        assert visited.page.locator(".compared").first.bounding_box()["height"] > 400
        assert not visited.requests
        assert not visited.complaints


SHOWN = """async (name) => (await gradscope.figure("compared-depth")).model.renderers
    .filter((one) => one.name === name).map((one) => one.visible)"""


def test_a_click_or_a_key_in_the_legend_hides_a_variant_everywhere(browser, page):
    with visit(browser, page) as visited:
        drawn(visited)
        button = visited.page.locator("#legend [data-variant='1']")
        assert set(visited.page.evaluate(SHOWN, "variant-1")) == {True}
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert set(visited.page.evaluate(SHOWN, "variant-1")) == {False}
        assert set(visited.page.evaluate(SHOWN, "variant-0")) == {True}
        assert visited.page.locator("[data-panel='1']").is_hidden()
        button.press("Enter")
        assert set(visited.page.evaluate(SHOWN, "variant-1")) == {True}
        visited.page.click("#legend-all")
        assert set(visited.page.evaluate(SHOWN, "variant-0")) == {False}
        visited.page.click("#legend-all")
        assert visited.page.locator("[data-panel='1']").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_narrow_window_and_letters_are_large_on_a_wide_one(browser, page, scheme):
    with visit(browser, page, width=600, scheme=scheme) as visited:
        drawn(visited)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 600
        visited.page.set_viewport_size({"width": 1920, "height": 1080})
        size = "(where) => parseFloat(getComputedStyle(document.querySelector(where)).fontSize)"
        assert visited.page.evaluate(size, ".question") >= 40
        assert visited.page.evaluate(size, ".outcomes td") >= 20


def test_without_scripts_all_words_and_numbers_are_there(browser, page):
    with visit(browser, page, scripts=False) as visited:
        shown = visited.page.inner_text("main")
        assert "came out as expected" in shown
        assert "gain per layer" in shown
        assert visited.page.locator("#legend").is_hidden()

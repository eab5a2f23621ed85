"""The page of a recording in a real browser: it shows, sorts, filters, asks for nothing and runs nobody's names."""

from dataclasses import replace

import numpy as np
import pytest
from browser import visit
from builders import trace_of
from examples import HEALTHY, SICK, diagnosis, finding, network, recurrent, sigmoid_chain

from gradscope.findings import Role, Severity, Unjudged
from gradscope.records import Event
from gradscope.reports.trace_page import trace_page

EVIL = "</script><img src=x onerror=alert(1)>"
SLOWEST = 120_000  # ms, of a figure on a busy machine
MAP = "gradscope.map ??= { shown: [], show(module) { this.shown.push(module); } };"


@pytest.fixture
def written(tmp_path):
    def write(trace, said, script=""):
        path = tmp_path / "report.html"
        text = trace_page(trace, said)
        path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        return path

    return write


def fill(page):
    """Brings the map of the first sequence into view, and waits until it is drawn."""
    page.evaluate("gradscope.figure('time-map-0')")
    page.wait_for_selector("[data-figure='time-map-0'][data-filled]", timeout=SLOWEST)


def column(page, number):
    return page.locator(f"#findings-table tbody tr:visible td:nth-child({number})").all_inner_texts()


def test_names_run_nothing(browser, written):
    said = diagnosis(
        finding(module=EVIL, message=EVIL, cause=EVIL, remedy=EVIL, unit=EVIL),
        finding(module=f"{EVIL}2", role=Role.SYMPTOM, caused_by=(EVIL, "GS101")),
        not_judged=[Unjudged(rule=EVIL, reason=EVIL)],
    )
    meta = {
        "model": EVIL,
        "variant": EVIL,
        "scenario": EVIL,
        "settings": {EVIL: EVIL},
        "optimizers": [{"type": EVIL, EVIL: 1.0, "parameters": [EVIL]}],
        "blind_spots": [{"module": EVIL, "why": EVIL}],
        "sources": {EVIL: {EVIL: 3}},
    }
    event = Event(step=1, kind=EVIL, module=EVIL, message=EVIL)
    trace = recurrent(0.5, meta=meta, events=[event])
    with visit(browser, written(trace, said, MAP)) as visited:
        dialogs = []
        visited.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        fill(visited.page)
        assert visited.page.locator("img").count() == 0
        assert EVIL in visited.page.inner_text("#verdict")
        assert column(visited.page, 3) == [EVIL, f"{EVIL}2"]
    assert not dialogs
    assert visited.requests == []
    assert visited.complaints == []


MANY = diagnosis(
    finding(module="layers.10", measured=0.25),
    finding(module="layers.9", measured=float("inf"), severity=Severity.WARNING, code="GS302"),
    finding(module="layers.2", measured=3.0, severity=Severity.INFO, code="GS501", first_step=4),
    finding(module="head", measured=float("nan"), severity=Severity.ERROR, code="GS401", first_step=2),
)


def test_the_table_sorts_upwards_downwards_and_back(browser, written):
    with visit(browser, written(sigmoid_chain(), MANY)) as visited:
        page = visited.page
        assert column(page, 3) == ["layers.10", "layers.9", "layers.2", "head"]
        by_module = page.get_by_role("button", name="Module")
        by_module.click()
        assert column(page, 3) == ["head", "layers.2", "layers.9", "layers.10"]
        assert page.get_by_role("columnheader", name="Module").get_attribute("aria-sort") == "ascending"
        by_module.click()
        assert column(page, 3) == ["layers.10", "layers.9", "layers.2", "head"]
        page.get_by_role("button", name="Measured").press("Enter")
        assert column(page, 3) == ["layers.10", "layers.2", "layers.9", "head"]
        assert page.get_by_role("columnheader", name="Module").get_attribute("aria-sort") == "none"
        page.get_by_role("button", name="Measured").click()
        assert column(page, 3) == ["layers.9", "layers.2", "layers.10", "head"]  # what has no number stays last
        page.get_by_role("button", name="Measured").click()
        assert column(page, 3) == ["layers.10", "layers.9", "layers.2", "head"]
        page.get_by_role("button", name="Severity").click()
        assert column(page, 3) == ["layers.2", "layers.9", "layers.10", "head"]
    assert visited.complaints == []


def test_the_table_is_filtered_by_severity_and_module(browser, written):
    with visit(browser, written(sigmoid_chain(), MANY)) as visited:
        page = visited.page
        page.get_by_label("error (2)").uncheck()
        assert column(page, 3) == ["layers.9", "layers.2"]
        assert page.inner_text("#findings-shown") == "2 of 4 shown"
        page.get_by_label("Module").fill("LAYERS.2")
        assert column(page, 3) == ["layers.2"]
        page.get_by_label("Module").fill("nowhere")
        assert page.locator("#findings-none").is_visible()
        page.get_by_label("Module").fill("")
        page.get_by_label("error (2)").check()
        assert len(column(page, 3)) == 4


def test_a_click_or_enter_shows_the_layer_in_the_map(browser, written):
    with visit(
        browser,
        written(
            sigmoid_chain(),
            MANY,
            MAP + "gradscope.map.shown = []; gradscope.map.show = (module) => { gradscope.map.shown.push(module); }",
        ),
    ) as visited:
        page = visited.page
        page.get_by_role("cell", name="layers.9", exact=True).click()
        page.locator("#findings-table tbody tr").nth(2).press("Enter")
        page.locator("#verdict [data-shows='head']").click()
        assert page.evaluate("gradscope.map.shown") == ["layers.9", "layers.2", "head"]
        assert page.locator("tr[aria-current]").count() <= 1


def test_without_scripts_the_findings_stand_there(browser, written):
    with visit(browser, written(sigmoid_chain(), MANY), scripts=False) as visited:
        assert column(visited.page, 3) == ["layers.10", "layers.9", "layers.2", "head"]
        assert visited.page.locator("#findings-controls").is_hidden()
        assert "need JavaScript" in visited.page.inner_text("noscript p")


def test_symptoms_are_folded_and_a_healthy_run_is_calm(browser, written):
    with visit(browser, written(sigmoid_chain(), SICK)) as visited:
        folded = visited.page.locator("#verdict details")
        assert not folded.locator("li").first.is_visible()
        folded.locator("summary").click()
        assert "at 6 places: layers.5, layers.6" in folded.inner_text()
    with visit(browser, written(sigmoid_chain(), HEALTHY)) as visited:
        assert visited.page.inner_text("p.verdict") == "healthy"
        assert visited.page.locator("#findings, .badge").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, written, scheme):
    with visit(browser, written(recurrent(0.5), SICK), width=1400, scheme=scheme) as visited:
        fill(visited.page)
        for width in (1400, 700):
            visited.page.set_viewport_size({"width": width, "height": 900})
            assert visited.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visited.complaints == []


def test_a_long_name_is_not_wider_than_the_window(browser, written):
    trace = trace_of(modules=["first", "x" * 300], output_grad_rms=np.ones(2))
    with visit(browser, written(trace, HEALTHY), width=700) as visited:
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 700


def test_a_printed_page_has_all_columns_and_parameters(browser, written):
    trace = sigmoid_chain()
    optimizer = {"type": "Adam", "lr": 0.1, "parameters": [f"layers.{i}.weight" for i in range(60)]}
    trace = replace(trace, meta={**trace.meta, "optimizers": [optimizer]})
    with visit(browser, written(trace, MANY), width=718) as visited:  # what an A4 page has within its margins
        visited.page.pdf()  # opens what is folded
        visited.page.emulate_media(media="print")
        visited.page.evaluate("document.querySelectorAll('#run details').forEach((folded) => (folded.open = true))")
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 718


def test_a_row_leads_to_the_story_of_its_layer(browser, written):
    with visit(browser, written(network(0.5), SICK)) as visited:
        visited.page.wait_for_selector("[data-ready]", timeout=SLOWEST)
        visited.page.get_by_role("cell", name="layers.7", exact=True).click()
        assert visited.page.inner_text("#story-name") == "layers.7"
    assert visited.complaints == []


def test_a_broken_cell_is_seen_in_the_map_of_time(browser, written):
    trace = recurrent([0.8] * 5 + [float("inf")] + [0.8] * 4, length=60)
    with visit(browser, written(trace, HEALTHY)) as visited:
        page = visited.page
        fill(page)
        told = page.evaluate(
            "gradscope.figure('time-map-0').then((view) => {"
            " const { special } = view.model.document.get_model_by_name('time-map-0').data;"
            " return [special[0].shape, [...special[0]].filter((value) => value === 1).length]; })"
        )
        assert told[0] == [60, 10]
        assert told[1] == 59  # all but the last position, at which the loss's own gradient arrives
        assert page.evaluate("gradscope.time.text('time-map-0', gradscope.codes.NONFINITE)") == "NaN or Inf"
        assert page.evaluate("gradscope.time.block([0, 4], [3, 7], 1.2)") == "4 to 7"
        assert [page.evaluate(f"gradscope.time.at([0, 4], {tick})") for tick in (1, 0.5, 2)] == ["4", "", ""]


def test_the_page_of_one_measurement_opens(browser, written):
    with visit(browser, written(trace_of(steps=1, output_rms=[1.0]), HEALTHY)) as visited:
        assert "no budget" in visited.page.inner_text("#budget")
    assert visited.complaints == []

"""The map in a real browser: what is clicked changes what is told, what is broken is seen, and no name runs."""

import io

import numpy as np
import pytest
from browser import browser, visit  # noqa: F401
from builders import trace_of
from PIL import Image

from gradscope.findings import Diagnosis, Finding, Severity
from gradscope.reports.html import Html
from gradscope.reports.page_map import NONFINITE_COLOUR

EVIL = "</script><img src=x onerror=alert(1)>"
READY = "document.documentElement.dataset.ready"


def finding(module):
    return Finding(
        code="GS101",
        pathology="vanishing-gradient",
        severity=Severity.ERROR,
        module=module,
        sites=(),
        first_step=1,
        last_step=3,
        measured=1.0,
        threshold=2.0,
        unit="decades",
        message=f"It vanishes in {module}.",
        cause=EVIL,
        remedy=EVIL,
    )


def written(path, modules, *, steps=6, broken=None, findings=()):
    """The page of a net whose gradient falls tenfold from layer to layer."""
    layers = len(modules)
    rms = np.tile(10.0 ** np.linspace(-6, 0, layers), (steps, 1))
    nonfinite = np.zeros((steps, layers))
    if broken is not None:
        nonfinite[broken] = 1
    trace = trace_of(
        output_grad_rms=np.where(nonfinite > 0, np.nan, rms),
        output_grad_nonfinite_count=nonfinite,
        output_rms=np.full((steps, layers), 2.0),
        modules=modules,
    )
    diagnosis = Diagnosis(findings=findings, not_judged=(), steps=steps, sites=2 * layers)
    Html().write(trace, diagnosis, path)
    return path


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    def opened(*modules, **given):
        return visit(browser, written(tmp_path / "report.html", modules, **given))

    return opened


def pixels_of(visited, colour):
    """How many pixels of the map have that colour."""
    shot = Image.open(io.BytesIO(visited.page.locator('[data-figure="map"]').screenshot())).convert("RGB")
    wanted = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return int((np.array(shot) == wanted).all(axis=2).sum())


def centre_of(visited, row, rows, column=3, columns=6):
    """Where the browser draws a cell, in pixels of the window."""
    return visited.page.evaluate(
        """async ([x, y]) => {
            const view = await gradscope.figure("map");
            const box = view.el.getBoundingClientRect();
            const {x_scale, y_scale} = view.frame;
            return [box.x + x_scale.compute(x), box.y + y_scale.compute(y)];
        }""",
        [column + 0.5, row + 0.5],
    )


def test_a_click_tells_the_story_of_a_layer(page):
    with page("first", "second", "third", "fourth", findings=(finding("third"),)) as visited:
        visited.page.wait_for_function(READY)
        told = visited.page.locator("#story-name")
        assert told.text_content() == "third"  # where the root is
        assert "It vanishes in third." in visited.page.locator("#story-findings").text_content()
        visited.page.mouse.click(*centre_of(visited, 1, 4))
        visited.page.wait_for_function("document.getElementById('story-name').textContent === 'second'")
        assert visited.page.locator("#story-findings").text_content() == ""
        assert visited.complaints == []
        assert visited.requests == []


def test_the_pointer_reads_exact_figures(page):
    with page("first", "second", "third") as visited:
        visited.page.wait_for_function(READY)
        visited.page.mouse.move(*centre_of(visited, 1, 3))
        tip = visited.page.locator("#map-tip")
        tip.wait_for(state="visible")
        assert tip.text_content() == "second · step 3 · gradient ∂L/∂y, rms: 0.001"


def test_the_keyboard_chooses_quantity_and_layer(page):
    with page("first", "second") as visited:
        visited.page.wait_for_function(READY)
        visited.page.focus("#map-plane")
        visited.page.keyboard.press("ArrowDown")
        visited.page.wait_for_function("document.getElementById('map-scale').textContent.includes('activation')")
        visited.page.focus("#map-layer")
        visited.page.keyboard.press("ArrowDown")
        visited.page.wait_for_function("document.getElementById('story-name').textContent === 'second'")
        assert visited.complaints == []


DRAWN = """async () => {
    const {model} = await gradscope.figure("map");
    const named = (name) => model.document.get_model_by_name(name);
    const palette = named("map-colours").palette.map((c) => [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)));
    const at = new Map(palette.map(([r, g, b], i) => [((255 << 24) | (b << 16) | (g << 8) | r) >>> 0, i]));
    return [...new Set(named("map-image").data.image[0])].map((colour) => at.get(colour)).sort();
}"""


def test_of_shares_a_cell_shows_the_largest_and_zero_is_the_first_colour(browser, tmp_path):  # noqa: F811
    dead = np.zeros((1500, 2))  # more steps than are drawn: a cell stands for two or three
    dead[700, 1] = 1.0
    trace = trace_of(output_dead_fraction=dead, modules=["first", "second"])
    Html().write(trace, Diagnosis(findings=(), not_judged=(), steps=1500, sites=2), tmp_path / "report.html")
    with visit(browser, tmp_path / "report.html") as visited:
        visited.page.wait_for_function(READY)
        assert visited.page.locator("#map-scale").text_content() == "Colour: dead units, share."
        assert visited.page.evaluate(DRAWN) == [0, 255]
        assert visited.complaints == []


def test_one_broken_cell_among_many_layers_is_seen(page):
    modules = [f"layer{i}" for i in range(900)]
    with page(*modules, steps=400, broken=(130, 444)) as visited:
        visited.page.wait_for_function(READY)
        assert pixels_of(visited, NONFINITE_COLOUR) >= 9
    with page(*modules, steps=400) as visited:
        visited.page.wait_for_function(READY)
        assert pixels_of(visited, NONFINITE_COLOUR) == 0


def test_layers_that_break_again_and_again_do_not_hide_that_another_breaks(browser, tmp_path):  # noqa: F811
    nonfinite = np.zeros((2000, 3))
    nonfinite[::2, :2] = 1
    nonfinite[1500, 2] = 1
    trace = trace_of(
        output_grad_rms=np.where(nonfinite > 0, np.nan, 1.0),
        output_grad_nonfinite_count=nonfinite,
        modules=["first", "second", "third"],
    )
    Html().write(trace, Diagnosis(findings=(), not_judged=(), steps=2000, sites=3), tmp_path / "report.html")
    with visit(browser, tmp_path / "report.html") as visited:
        visited.page.wait_for_function(READY)
        rows = visited.page.evaluate(
            "gradscope.figure('map').then((v) => [...v.model.document.get_model_by_name('map-broken').data.y])"
        )
        assert set(rows) == {0.5, 1.5, 2.5}
        assert len(rows) <= 2000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_layers_are_called_runs_nothing(page, scheme):
    dialogs = []
    with page(EVIL, "'\"><svg onload=alert(2)>", "third", findings=(finding(EVIL),)) as visited:
        visited.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        visited.page.reload()
        visited.page.wait_for_function(READY)
        visited.page.mouse.move(*centre_of(visited, 0, 3))
        assert EVIL in visited.page.locator("#map-tip").text_content()
        assert visited.page.locator("main img, main svg").count() == 0
        assert dialogs == []
        assert visited.requests == []
        assert visited.complaints == []

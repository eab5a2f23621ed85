"""A page is one file that asks for nothing, and what a model is called runs nothing in it."""

import json
import re
from html.parser import HTMLParser

import pytest
from bokeh.plotting import figure

from gradscope.findings import Diagnosis
from gradscope.reports.page import Section, page_of

EVIL = "</script><img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.starts, self.scripts, self._inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.starts.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.scripts[self._inside] = data


CONTEXT = {"verdict": EVIL, "state": "healthy", "about": EVIL, "ranks": "", "unjudged": False, "heads": []}


def section(**changes):
    given = {"anchor": "a", "title": EVIL, "template": "verdict.html", "context": CONTEXT}
    return Section(**(given | changes))


def test_names_are_text_wherever_they_stand():
    found = Elements(page_of(EVIL, [section(data={"names": [EVIL, "<!--", "\u2028"]})]))
    assert not [tag for tag, _ in found.starts if tag == "img"]
    assert json.loads(found.scripts["data-names"]) == [EVIL, "<!--", "\u2028"]


def test_a_page_asks_for_nothing():
    drawn = figure(height=100)
    drawn.line([1, 2], [1, 2])
    found = Elements(page_of("model", [section(figures={"line": drawn})]))
    links = [attrs[k] for _, attrs in found.starts for k in ("src", "href") if k in attrs]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert json.loads(found.scripts["figure-line"])["root_id"] == drawn.id


def test_a_page_without_figures_leaves_bokeh_out():
    assert len(page_of("model", [section()])) < 20_000
    assert len(page_of("model", [section(figures={"f": figure()})])) > 1_000_000


def test_contents_link_to_the_sections():
    text = page_of("model", [section(anchor="one", title="One"), section(anchor="two", title="Two")])
    assert re.findall(r'<a href="#(\w+)">(\w+)</a>', text) == [("one", "One"), ("two", "Two")]
    assert 'id="one"' in text
    assert 'id="two"' in text


def test_a_name_that_two_sections_use_is_an_error():
    with pytest.raises(ValueError, match="two sections of the page have a 'data-n'"):
        page_of("model", [section(data={"n": 1}), section(data={"n": 2})])


def test_a_number_that_json_lacks_is_an_error():
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_of("model", [section(data={"n": float("nan")})])


def test_the_page_of_a_trace_says_its_verdict(tmp_path):
    from builders import trace_of

    from gradscope.reports.html import Html

    trace = trace_of(output_grad_rms=[1.0, 1.0])
    nothing = Diagnosis(findings=(), not_judged=(), steps=1, sites=2)
    (path,) = Html().write(trace, nothing, tmp_path)
    assert path == tmp_path / "report.html"
    assert '<p class="verdict">healthy</p>' in path.read_text(encoding="utf-8")

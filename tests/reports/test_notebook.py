"""What a notebook shows of a diagnosis, a trace and a scope."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from builders import trace_of
from examples import HEALTHY, SICK, diagnosis, finding, network, recurrent

from gradscope.findings import Unjudged
from gradscope.reports.notebook import diagnosis_html, scope_html, trace_html

# Those that GitHub lets through, of those that are written.
ALLOWED = {"p", "b", "code", "div", "ul", "li", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"}
ALLOWED_ATTRIBUTES = {("div", "align"), ("details", "open")}
HOSTILE = "</details></table><script>alert(1)</script><img src=x onerror=alert(1)>"


class Reader(HTMLParser):
    """The tags, whether they are closed in order, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], set(), [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(page):
    """What is left of it behind a forge's sanitiser is all of it."""
    reader = Reader(page)
    assert set(reader.tags) <= ALLOWED
    assert reader.attributes <= ALLOWED_ATTRIBUTES
    assert reader.open == []
    return reader


def test_a_diagnosis_shows_verdict_root_cause_remedy_and_what_follows():
    text = read(diagnosis_html(SICK)).text
    assert text.startswith("gradscope: 1 error · 10 steps, 30 sites")
    root = SICK.roots[0]
    for part in ("error GS101 vanishing-gradient · layers.3", root.message, root.cause, root.remedy):
        assert part in text
    assert "hence 6 findings" in text
    assert "update-too-small, update-too-large: the trace holds no weight_update" in text
    assert text.count("93 % of the units sit at a bound") == 6


def test_healthy_is_said_where_every_rule_could_judge():
    assert "gradscope: healthy" in diagnosis_html(HEALTHY)
    blind = replace(HEALTHY, not_judged=(Unjudged(rule="dead-units", reason="no activation"),))
    assert "gradscope: no finding, 1 rule not judged" in diagnosis_html(blind)


def test_the_first_roots_are_unfolded_and_many_are_counted():
    many = diagnosis(*(finding(module=f"layers.{i}") for i in range(30)))
    page = diagnosis_html(many)
    assert page.count("<details open>") == 3
    assert "and 18 more" in read(page).text


@pytest.mark.parametrize("name", [HOSTILE, "layer\n\x1b[31m\u2028", '" onmouseover="alert(1)', "ä" * 300])
def test_names_are_text_whatever_they_are(name):
    names = [f"{name}{i}" for i in range(4)]
    trace = trace_of(
        modules=names, types=name, output_grad_rms=np.ones(4), output_rms=np.ones(4), loss=1.0, meta={"model": name}
    )
    sick = diagnosis(finding(module=name, message=name), finding(module=name, caused_by=(name, "GS101")))
    page = scope_html(trace, sick, running=True)
    read(page)
    assert "\x1b" not in page
    assert "\u2028" not in page


def test_a_trace_shows_run_loss_and_the_layers_that_stand_out():
    trace = network(0.25)
    text = read(trace_html(trace)).text
    assert "gradscope trace · MLP · 12,345 parameters · Adam lr 0.001 · 10 steps recorded (0 to 9) · 30 sites" in text
    assert "loss over the steps" in text
    assert "2.3 → 2.3" in text
    assert f"{1e-2 * 0.25**14:.3g} → 0.01" in text
    assert "The layers farthest from the median layer, 6 of 15" in text
    far = text[text.index("farthest") :]
    assert {f"layers.{i}" for i in range(15) if f"layers.{i} " in far} == {f"layers.{i}" for i in (0, 1, 2, 12, 13, 14)}
    assert "error" not in text  # no verdict
    assert "healthy" not in text


def test_a_broken_layer_comes_first():
    broken = np.zeros((5, 40))
    broken[2:, 17] = 3
    rms = np.where(broken > 0, np.nan, 1e-3 ** np.linspace(0, 1, 40))
    text = read(trace_html(trace_of(output_grad_rms=rms, output_grad_nonfinite_count=broken))).text
    rows = text[text.index("NaN or Inf") :]
    assert rows.startswith("NaN or Inf 17 Linear ▅▅✗✗✗")
    assert "3 steps 39 Linear" in rows


def test_recurrent_layers_have_their_gradient_through_time():
    text = read(trace_html(recurrent(0.5, layers=["l0", "l1"]))).text
    assert "through time" in text
    assert "rnn l0" in text
    assert "0.5" in text[text.index("rnn l0") :]


def test_a_scope_says_how_far_it_is():
    trace = network(0.5)
    assert read(scope_html(trace, SICK, running=True)).text.startswith("recording, so far: gradscope: 1 error")
    assert read(scope_html(trace, SICK, running=False)).text.startswith("detached; recorded:")
    nothing = trace_of(output_rms=np.ones((0, 3)))
    assert "nothing recorded · no step has ended yet" in read(scope_html(nothing, HEALTHY, running=True)).text
    assert "no step was recorded" in read(trace_html(nothing)).text


def test_a_large_sick_model_stays_far_below_a_megabyte():
    long = "&" * 5000
    worst = diagnosis(
        *(finding(module=f"{long}{i}", message=long, cause=long, remedy=long) for i in range(50)),
        *(finding(module=f"{i}", message=long, caused_by=(f"{long}0", "GS101")) for i in range(500)),
        not_judged=[Unjudged(rule=f"{long}{i}", reason=f"{i % 50}{long}") for i in range(500)],
    )
    names = [f"{long}{i}" for i in range(1000)]
    trace = trace_of(modules=names, output_grad_rms=np.ones((50, 1000)), loss=1.0, meta={"model": long})
    assert len(scope_html(trace, worst, running=True).encode()) < 1_000_000


def test_a_trace_is_short_as_text_too():
    assert repr(network(0.5)) == "<Trace of MLP: 10 steps, 30 sites>"
    assert network(0.5)._repr_html_() == trace_html(network(0.5))

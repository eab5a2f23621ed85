"""What the page of a trace carries for its map."""

import numpy as np
import pytest
from builders import trace_of

from gradscope.findings import Diagnosis, Finding, Severity
from gradscope.reports.page_map import map_section


def finding(module, *, alike=(), first_step=0):
    return Finding(
        code="GS101",
        pathology="vanishing-gradient",
        severity=Severity.WARNING,
        module=module,
        sites=(),
        first_step=first_step,
        last_step=3,
        measured=1.0,
        threshold=2.0,
        unit="decades",
        message="It vanishes.",
        cause="",
        remedy="",
        alike=alike,
    )


def section(*findings, modules=("encoder.0", "encoder.1", "head")):
    trace = trace_of(output_grad_rms=np.ones((4, 3)), modules=modules)
    return map_section(trace, Diagnosis(findings=findings, not_judged=(), steps=4, sites=3))


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (finding("head"), [2]),
        (finding("encoder"), [0]),
        (finding("encoder.0", alike=("encoder.0", "encoder.1", "encoder.0")), [0, 1]),
        (finding(""), []),
        (finding("elsewhere"), []),
    ],
    ids=["its own layer", "a container's first", "all that are alike", "the model", "a layer that the map lacks"],
)
def test_a_finding_stands_at_its_layers(given, rows):
    (mark,) = section(given).data["marks"]
    assert mark["rows"] == rows
    assert (mark["severity"], mark["title"], mark["message"]) == ("warning", "GS101 vanishing-gradient", "It vanishes.")


def test_there_is_a_story_for_each_quantity():
    made = section()
    assert [plane["key"] for plane in made.data["layers"]["planes"]] == ["gradient"]
    assert set(made.figures) == {"map", "story-gradient"}
    assert made.context["layers"] == ["encoder.0", "encoder.1", "head"]


def test_a_trace_without_layers_has_no_map():
    nothing = Diagnosis(findings=(), not_judged=(), steps=3, sites=1)
    assert map_section(trace_of(loss_mean=np.ones((3, 1))), nothing) is None

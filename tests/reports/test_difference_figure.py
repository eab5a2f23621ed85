"""Two lines over one row of layers."""

import numpy as np
import pytest
from bokeh.models import Line, Scatter
from builders import trace_of
from differences import everything, nothing, recorded

from gradscope.difference import difference
from gradscope.reports.difference_figure import both_gradients


def glyphs(drawn, kind):
    return [one for one in drawn.figure.renderers if isinstance(one.glyph, kind)]


def test_each_run_is_a_line_over_its_layers():
    found = everything()
    drawn = both_gradients(found)
    a, b = (line.data_source.data for line in glyphs(drawn, Line))
    names = [place.name for place in found.places]
    assert names == ["stem", "act", "fc", "old", "head", "extra"]
    assert list(a["x"]) == [0, 1, 2, 3, 4]
    assert list(b["x"]) == [0, 1, 2, 4, 5]
    assert list(b["name"]) == ["net.stem", "net.act", "net.fc", "net.head", "extra"]
    assert [names[x] for x in a["x"]] == list(a["name"])
    np.testing.assert_allclose(a["y"], [0.5, 0.5, 0.5, 1.0, 1.0])


def ringed(drawn):
    return [list(one.data_source.data["name"]) for one in glyphs(drawn, Scatter) if one.glyph.fill_alpha == 0]


def test_changed_layers_have_a_ring():
    in_a, in_b = ringed(both_gradients(everything()))
    assert "fc" in in_a
    assert "net.fc" in in_b
    assert "head" not in in_a
    assert ringed(both_gradients(nothing())) == [[], []]


def test_zero_and_nan_are_marked_at_the_edges_and_said():
    rms = np.ones((5, 4))
    rms[:, 1] = 0.0
    rms[:, 2] = np.nan
    sick = trace_of(modules=list("abcd"), output_grad_rms=rms, output_grad_nonfinite_count=[0, 0, 1, 0])
    drawn = both_gradients(difference(recorded("a", sick), recorded("b", sick)))
    assert drawn.marks == "A cross at the top is NaN or Inf. A triangle at the bottom is a gradient of exactly zero."
    at = {one.glyph.marker: list(one.data_source.data["x"]) for one in glyphs(drawn, Scatter) if one.glyph.size == 11}
    assert at == {"inverted_triangle": [1], "x": [2]}


def test_a_healthy_gradient_looks_flat():
    drawn = both_gradients(nothing())
    assert np.log10(drawn.figure.y_range.end / drawn.figure.y_range.start) >= 4
    assert drawn.marks == ""


@pytest.mark.parametrize("layers", [30, 1000])
def test_of_many_layers_some_are_named(layers):
    trace = trace_of(steps=3, output_grad_rms=np.ones(layers))
    drawn = both_gradients(difference(recorded("a", trace), recorded("b", trace)))
    assert 10 <= len(drawn.figure.xaxis[0].major_label_overrides) <= 24


def test_a_name_is_no_formula():
    trace = trace_of(steps=3, modules=["$$x$$", "fc"], output_grad_rms=[1.0, 1.0])
    drawn = both_gradients(difference(recorded("a", trace), recorded("b", trace)))
    assert drawn.figure.xaxis[0].major_label_overrides[0].text == "$$x$$"


def test_without_two_layers_there_is_no_figure():
    trace = trace_of(steps=3, modules=["fc"], output_grad_rms=[1.0])
    assert both_gradients(difference(recorded("a", trace), recorded("b", trace))) is None

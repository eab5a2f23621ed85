"""The variants as lines on shared axes."""

from dataclasses import replace

import numpy as np
from bokeh.models import Line, VArea
from builders import trace_of
from examples import HEALTHY, comparison, recurrent, variant

from gradscope.reports.comparison_figures import pictures


def lines(picture):
    found = [one for one in picture.figure.renderers if isinstance(one.glyph, Line)]
    return {one.name: one.data_source.data for one in found}


def test_gradient_by_depth_and_loss_have_a_line_for_each_variant():
    depth, loss = pictures(comparison())
    assert (depth.name, loss.name) == ("compared-depth", "compared-loss")
    assert lines(depth).keys() == lines(loss).keys() == {"variant-0", "variant-1", "variant-2"}
    np.testing.assert_allclose(lines(depth)["variant-0"]["y"], 1e-2 * 0.25 ** np.arange(15)[::-1], rtol=1e-5)
    np.testing.assert_allclose(lines(loss)["variant-2"]["y"], 2.3 * 0.9 ** np.arange(10))
    assert depth.figure.y_range.start < 1e-2 * 0.25**14
    assert "∂L/∂y" in depth.figure.yaxis[0].axis_label


def test_seeds_are_a_band():
    for picture in pictures(comparison(seeds=3)):
        bands = [one for one in picture.figure.renderers if isinstance(one.glyph, VArea)]
        assert len(bands) == 3
        assert any("median of the seeds" in note for note in picture.notes)


def of(*traces):
    made = [variant(str(index), 0.9, HEALTHY) for index in range(len(traces))]
    return comparison(
        variants=[replace(v, runs=(replace(v.runs[0], trace=t),)) for v, t in zip(made, traces, strict=True)]
    )


def test_recurrent_variants_are_compared_by_time():
    time, *_ = pictures(of(recurrent(0.5), recurrent(0.99, mode="LSTM")))
    assert time.name == "compared-time"
    assert lines(time).keys() == {"variant-0", "variant-1"}
    assert any(note.startswith("A ring") for note in time.notes)


def test_a_variant_without_data_and_one_of_nan_leave_the_others():
    nothing = trace_of(weight_rms=[1.0], steps=4)
    broken = trace_of(
        steps=4, output_grad_rms=np.full((4, 3), np.nan), output_grad_nonfinite_count=[1, 1, 1],
        loss=np.nan, loss_mean=np.full((4, 1), np.nan), loss_nonfinite_count=np.ones((4, 1)),
    )  # fmt: skip
    fine = trace_of(steps=4, output_grad_rms=[1.0, 1.0, 0.0], loss=[3.0, 2.0, 1.0, 0.5])
    depth, loss = pictures(of(nothing, broken, fine))
    assert "variant-0" not in {one.name for one in depth.figure.renderers}
    assert {"variant-1", "variant-2"} == {one.name for one in depth.figure.renderers}
    assert any("NaN or Inf" in note for note in depth.notes)
    assert any("exactly zero" in note for note in depth.notes)
    assert any("NaN or Inf" in note for note in loss.notes)


def test_nothing_at_all_is_no_figure():
    assert list(pictures(of(trace_of(weight_rms=[1.0])))) == []

"""Small maps of all variants in the same colours."""

from dataclasses import replace

import numpy as np
from builders import trace_of
from examples import HEALTHY, comparison, recurrent, variant

from gradscope.reports.comparison_maps import MOST_COLUMNS, MOST_ROWS, maps


def of(*traces):
    made = [variant(str(index), 0.9, HEALTHY) for index in range(len(traces))]
    return comparison(
        variants=[replace(v, runs=(replace(v.runs[0], trace=t),)) for v, t in zip(made, traces, strict=True)]
    )


def images(figure):
    found = {}
    for one in figure.renderers:
        found |= {name: values[0] for name, values in one.data_source.data.items() if name in ("image", "special")}
    return found


def mappers(found):
    return {(one.glyph.color_mapper.low, one.glyph.color_mapper.high) for f in found.figures for one in f.renderers[:1]}


def test_all_variants_have_the_same_colours():
    (found,) = maps(comparison())
    assert len(mappers(found)) == 1
    np.testing.assert_allclose(
        images(found.figures[0])["image"], np.tile(np.log10(1e-2 * 0.25 ** np.arange(15)[::-1])[:, None], 10), rtol=1e-5
    )
    assert not found.broken
    assert found.blocks == ""


def test_one_broken_cell_and_a_zero_among_many_are_seen():
    rms = np.ones((2000, 300))
    rms[777, 123] = np.nan
    rms[5, 7] = 0.0
    count = np.zeros(rms.shape)
    count[777, 123] = 1
    (found,) = maps(of(trace_of(steps=2000, output_grad_rms=rms, output_grad_nonfinite_count=count)))
    special = images(found.figures[0])["special"]
    assert special.shape == (MOST_ROWS, MOST_COLUMNS)
    row, column = np.argwhere(special == 1)[0]
    assert (special == 1).sum() == (special == 0).sum() == 1
    assert (row, column) == (123 // 3, 777 * MOST_COLUMNS // 2000)
    assert found.broken
    assert found.zero
    assert found.blocks == "up to 13 steps × up to 3 rows"


def test_a_run_that_ended_early_ends_early_on_the_same_axis():
    long, short = (trace_of(steps=n, output_grad_rms=[1.0, 1.0, 1.0]) for n in (40, 10))
    (found,) = maps(of(long, short))
    assert found.figures[0].x_range.end == found.figures[1].x_range.end == 39.5
    assert found.figures[1].renderers[0].glyph.dw == 10


def test_sequences_have_maps_by_time_and_other_variants_none():
    found, *_ = maps(of(recurrent(0.5), trace_of(steps=3, output_grad_rms=[1.0])))
    assert found.name == "maps-time"
    assert found.figures[1] is None


def test_without_gradients_there_are_none():
    assert list(maps(of(trace_of(weight_rms=[1.0])))) == []

from dataclasses import replace

import numpy as np
import pytest
from builders import trace_of

from gradscope.records import Quantity
from gradscope.reports.step_curves import broken_steps, losses_of, norms_of, running_median, spreads_out


def test_the_loss_of_several_runs_is_their_median_and_range():
    table = np.array([[3.0, np.nan, np.inf], [1.0, 2.0, np.inf], [2.0, 8.0, np.nan]])
    found = losses_of([trace_of(output_grad_rms=[1.0], steps=3, loss=row) for row in table])
    np.testing.assert_array_equal(found.middle, [2.0, 5.0, np.nan])
    np.testing.assert_array_equal(found.low, [1.0, 2.0, np.nan])
    np.testing.assert_array_equal(found.high, [3.0, 8.0, np.nan])
    assert found.known.tolist() == [True, True, False]
    assert found.broken.tolist() == [False, False, True]


def test_a_run_of_other_length_is_left_out():
    long, short = (trace_of(output_grad_rms=[1.0], steps=n, loss=float(n)) for n in (4, 2))
    assert losses_of([long, short]).high.tolist() == [4.0] * 4


@pytest.mark.parametrize(("applied", "told"), [(1.0, [1.0] * 5), (10.0, None)])
def test_the_norm_that_was_applied_is_told_where_it_differs(applied, told):
    trace = trace_of(modules=["", ""], total_norm_l2_norm=np.tile([10.0, applied], (5, 1)))
    named = tuple(replace(site, name=name) for site, name in zip(trace.sites, ("raw", "applied"), strict=True))
    raw, second = norms_of(replace(trace, sites=named))
    assert raw.tolist() == [10.0] * 5
    assert (None if second is None else second.tolist()) == told


def test_without_norms_there_are_none():
    assert norms_of(trace_of(output_grad_rms=[1.0])) == (None, None)


def test_the_running_median_ignores_a_spike_and_keeps_gaps():
    values = np.ones(100)
    values[[40, 60]] = 50.0, np.nan
    smooth = running_median(values)
    assert np.nanmax(smooth) == 1.0
    assert np.flatnonzero(np.isnan(smooth)).tolist() == [60]
    assert running_median(np.ones(40)) is None


def test_an_explosion_spreads_out():
    assert spreads_out(np.array([1.0, 1.0, 1.0, 200.0]))
    assert not spreads_out(np.array([1.0, 2.0, 3.0, np.nan]))
    assert not spreads_out(np.zeros(0))


def test_broken_steps():
    trace = trace_of(
        steps=3, output_grad_rms=[1.0, 1.0], output_grad_nonfinite_count=np.array([[0, 0], [0, 2], [1, 1]])
    )
    assert broken_steps(trace, Quantity.OUTPUT_GRAD).tolist() == [False, True, True]

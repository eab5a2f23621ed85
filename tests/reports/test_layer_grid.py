"""The grid of the layers, against a loop over modules and steps."""

import math

import numpy as np
import pytest
from builders import trace_of

from gradscope.records import Quantity, Statistic
from gradscope.reports.layer_grid import MOST_COLUMNS, layer_grid

STEPS, LAYERS = 7, 5


@pytest.fixture
def trace():
    draw = np.random.default_rng(3)
    shape = (STEPS, LAYERS)
    nonfinite = np.zeros(shape)
    nonfinite[4, 2] = 3
    return trace_of(
        output_rms=draw.uniform(0.1, 9, shape),
        output_dead_fraction=draw.uniform(0, 1, shape),
        output_grad_rms=np.where(nonfinite > 0, np.nan, draw.uniform(1e-9, 1, shape)),
        output_grad_nonfinite_count=nonfinite,
        weight_l2_norm=draw.uniform(1, 2, shape),
        weight_update_l2_norm=draw.uniform(0, 1e-3, shape),
    )


def plane(grid, key):
    return next(cells for plane, cells in grid.planes.items() if plane.key == key)


def test_values_are_those_of_the_trace(trace):
    grid = layer_grid(trace)
    for key, quantity, statistic in (
        ("activation", Quantity.OUTPUT, Statistic.RMS),
        ("dead", Quantity.OUTPUT, Statistic.DEAD_FRACTION),
        ("gradient", Quantity.OUTPUT_GRAD, Statistic.RMS),
        ("weight", Quantity.WEIGHT, Statistic.L2_NORM),
    ):
        for row, layer in enumerate(grid.layers):
            expected = trace.series(layer.module, quantity, statistic)
            assert plane(grid, key).values[row] == pytest.approx(expected, nan_ok=True)


def test_the_update_ratio_is_the_update_over_the_weight(trace):
    grid = layer_grid(trace)
    for row, layer in enumerate(grid.layers):
        moved, weight = (
            trace.series(layer.module, quantity, Statistic.L2_NORM)
            for quantity in (Quantity.WEIGHT_UPDATE, Quantity.WEIGHT)
        )
        assert plane(grid, "update").values[row] == pytest.approx(
            [float(a) / float(b) for a, b in zip(moved, weight, strict=True)]
        )


def test_what_broke_is_known_though_it_has_no_value(trace):
    cells = plane(layer_grid(trace), "gradient")
    assert np.argwhere(cells.nonfinite).tolist() == [[2, 4]]
    assert cells.seen.all()
    assert math.isnan(cells.values[2, 4])


def test_layers_stand_in_the_order_in_which_they_ran(trace):
    depths = [layer.depth for layer in layer_grid(trace).layers]
    assert depths == sorted(depths)
    assert len(depths) == LAYERS


def test_a_plane_of_which_nothing_was_seen_is_left_out():
    found = layer_grid(trace_of(output_grad_rms=np.ones(3), output_dead_fraction=np.zeros(3)))
    assert [plane.key for plane in found.planes] == ["gradient", "dead"]


def test_one_step_in_which_units_are_dead_is_seen_among_many_in_which_none_is():
    dead = np.zeros((MOST_COLUMNS * 3, 1))
    dead[301, 0] = 0.9
    grid = layer_grid(trace_of(output_dead_fraction=dead))
    assert plane(grid, "dead").values.max() == pytest.approx(0.9)
    assert np.count_nonzero(plane(grid, "dead").values) == 1


def test_many_steps_share_a_column_which_names_the_first_and_the_last():
    steps = 2 * MOST_COLUMNS + 1
    rms = np.ones((steps, 2))
    rms[777, 1] = 1e-8
    grid = layer_grid(trace_of(output_grad_rms=rms))
    assert len(grid.first) == MOST_COLUMNS
    assert (grid.first[0], grid.last[-1]) == (0, steps - 1)
    assert np.array_equal(grid.first[1:], grid.last[:-1] + 1)
    (column,) = np.flatnonzero(plane(grid, "gradient").values[1] < 1)
    assert grid.first[column] <= 777 <= grid.last[column]


def test_a_page_of_many_layers_has_fewer_columns():
    grid = layer_grid(trace_of(output_grad_rms=np.ones((900, 20))), most_cells=20 * 300)
    assert len(grid.first) == 300


def test_a_trace_without_layers_has_no_grid():
    assert layer_grid(trace_of(loss_mean=np.ones((3, 1)))) is None

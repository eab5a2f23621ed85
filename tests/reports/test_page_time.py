"""The section on sequences."""

import numpy as np
import pytest
from examples import HEALTHY, network, recurrent, with_times

from gradscope.reports.page_time import OPEN_MAPS, time_section
from gradscope.reports.passage import passages


def test_a_feed_forward_network_has_no_such_section():
    assert time_section(network(0.9), HEALTHY) is None


def test_each_layer_and_direction_has_a_line_a_map_and_a_profile():
    trace = recurrent(0.8, mode="LSTM", layers=["l0", "l0_reverse", "l1"])
    made = time_section(trace, HEALTHY)
    names = [one.name for one in passages(trace)]
    assert [row.name for row in made.context["rows"]] == names
    assert [place.name for place in made.context["maps"]] == names
    assert set(made.data) == set(made.figures) - {"time-profiles"} == {f"time-map-{i}" for i in range(3)}
    labels = [item.label.value for item in made.figures["time-profiles"].legend[0].items]
    assert labels == [f"{one.name}, memory {one.memory():.0f}" for one in passages(trace)]


def test_a_memory_within_the_sequence_gets_a_ring_where_a_thousandth_is_left():
    made = time_section(recurrent(0.5, length=40), HEALTHY)
    assert made.context["rings"]
    ring = made.figures["time-profiles"].renderers[1].data_source.data
    assert ring["x"][0] == pytest.approx(39 - np.log(1e-3) / np.log(0.5))
    assert ring["y"][0] == pytest.approx(1e-2 * 1e-3, rel=1e-3)
    assert not time_section(recurrent(0.99, length=40), HEALTHY).context["rings"]


def test_the_maps_of_many_layers_are_folded_and_coarser():
    many = [f"l{i}" for i in range(OPEN_MAPS + 1)]
    made = time_section(recurrent(0.8, layers=many), HEALTHY)
    assert all(place.folded for place in made.context["maps"])


def test_without_a_state_s_gradient_other_positions_are_drawn():
    trace = with_times(network(0.9, layers=3, steps=2), np.array([0.5 ** np.arange(40)[::-1]] * 2))
    made = time_section(trace, HEALTHY)
    assert made.context["maps"] == []
    assert list(made.figures) == ["time-profiles"]
    assert made.context["about"] == "No state's gradient was recorded: this is ∂L/∂y of layers.0."

import numpy as np
from builders import trace_of

from gradscope.reports.layer_grid import layer_grid
from gradscope.reports.live_map import live_map
from gradscope.rules.engine import diagnose

NUMBERS = np.array([[1.0, 10.0, 0.0, 1e3], [1.0, 10.0, 100.0, 1e3], [1.0, 10.0, 100.0, 1e3]])
COUNTS = np.array([[0, 0, 0, 0], [0, 0, 0, 9], [0, 0, 0, 9]])


def test_a_cell_is_a_logarithm_and_what_has_none_lies_beyond_the_ends() -> None:
    trace = trace_of(output_rms=NUMBERS, output_nonfinite_count=COUNTS, modules=["a", "b", "c", "d"], every=5)
    grid = layer_grid(trace)
    assert grid is not None
    drawn = live_map()
    plane = next(iter(grid.planes))
    drawn.show(grid, plane, diagnose(trace), 2)
    image, (low, high) = drawn.image.data["image"][0], (drawn.colours.low, drawn.colours.high)
    assert (low, high) == (0.0, 3.0)
    np.testing.assert_allclose(image[0], [0, 0, 0])
    np.testing.assert_allclose(image[1], [1, 1, 1])
    assert image[2, 0] < low
    np.testing.assert_allclose(image[2, 1:], 2)
    assert image[3, 0] == 3.0
    assert (image[3, 1:] > high).all()
    assert (list(drawn.broken.data["x"]), list(drawn.broken.data["y"])) == ([1.5], [3.5]), "where it begins"
    assert list(drawn.rows.data["name"]) == ["a", "b", "c", "d"]
    assert drawn.drawn.xaxis[0].major_label_overrides == {0.5: "0", 1.5: "5", 2.5: "10"}
    assert (1.5, 3.5) in list(zip(drawn.found.data["x"], drawn.found.data["y"], strict=True))
    assert drawn.chosen.data["y"] == [2.5]

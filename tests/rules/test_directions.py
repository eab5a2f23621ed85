import numpy as np
from builders import trace_of

from gradscope.rules.directions import directions_of

TYPES = ["Embedding", "Linear", "Softmax", "ReLU", "Conv2d"]
SHAPES = {"0.weight": [50, 8], "1.weight": [32, 8], "4.weight": [6, 32, 3, 3]}


def test_a_module_has_the_features_of_the_layer_that_ran_last_and_softmax_is_left_out():
    weights = np.array([1.0, 1.0, np.nan, np.nan, 1.0])
    trace = trace_of(
        types=TYPES,
        output_direction_spread=np.full(5, 0.5),
        output_attention_entropy=[np.nan, 0.9, 0.9, np.nan, np.nan],
        weight_rms=weights,
        meta={"shapes": SHAPES},
    )
    found = {d.site.module: (d.features, d.attends) for d in directions_of(trace)}
    assert found == {"0": (8, False), "1": (32, True), "3": (32, False), "4": (6, False)}


def test_what_was_not_measured_is_left_out_and_unknown_shapes_are_no_number():
    found = directions_of(trace_of(output_direction_spread=[0.5, np.nan], weight_rms=[1.0, 1.0]))
    assert [d.site.module for d in found] == ["0"]
    assert np.isnan(found[0].features)

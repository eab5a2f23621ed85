"""The layers of two models in one row."""

import math

import numpy as np
from builders import trace_of

from gradscope.alignment import align
from gradscope.slopes import places_of


def net(**gradients):
    return trace_of(steps=4, modules=list(gradients), output_grad_rms=np.array(list(gradients.values())))


def row(a, b, first=0, last=3):
    places = places_of(a, b, align(a, b), first, last)
    return [(p.a and p.a.module, p.b and p.b.module) for p in places], places


def test_layers_of_both_share_a_place_and_the_others_stand_between():
    a, b = net(stem=1.0, old=2.0, head=3.0), net(stem=1.0, new=2.0, newer=2.5, head=4.0)
    names, places = row(a, b)
    assert names == [("stem", "stem"), ("old", None), (None, "new"), (None, "newer"), ("head", "head")]
    assert [place.name for place in places] == ["stem", "old", "new", "newer", "head"]
    assert (places[-1].a.rms, places[-1].b.rms) == (3.0, 4.0)
    assert places[1].to_dict() == {"a": {"module": "old", "rms": 2.0, "nonfinite": False}, "b": None}


def test_a_prefix_is_no_other_layer():
    a = net(stem=1.0, head=3.0)
    b = trace_of(steps=4, modules=["m.stem", "m.head"], output_grad_rms=[1.0, 2.0])
    assert row(a, b)[0] == [("stem", "m.stem"), ("head", "m.head")]


def test_layers_in_another_order_keep_the_order_of_each_model():
    names, _ = row(net(a=1.0, b=1.0, c=1.0), net(b=1.0, a=1.0, c=1.0))
    assert [one for one, _ in names if one] == ["a", "b", "c"]
    assert [other for _, other in names if other] == ["b", "a", "c"]


def test_a_level_is_the_median_over_the_steps_in_question():
    values = np.array([[1.0], [2.0], [4.0], [1e9]])
    trace = trace_of(modules=["fc"], output_grad_rms=values)
    (place,) = places_of(trace, trace, align(trace, trace), 0, 2)
    assert place.a.rms == 2.0


def test_what_is_not_finite_or_zero_stays_what_it_is():
    values = np.array([[np.nan, 0.0, 1.0]] * 4)
    broken = np.array([[5.0, 0.0, 0.0]] * 3 + [[5.0, 0.0, 1.0]])
    trace = trace_of(modules=["a", "b", "c"], output_grad_rms=values, output_grad_nonfinite_count=broken)
    levels = [place.a for place in places_of(trace, trace, align(trace, trace), 0, 3)]
    assert {level.module: level.nonfinite for level in levels} == {"a": True, "b": False, "c": True}
    assert math.isnan(levels[0].rms)
    assert (levels[1].rms, levels[2].rms) == (0.0, 1.0)


def test_a_model_without_gradients_has_no_places():
    trace = trace_of(steps=1, modules=["fc"], output_rms=[1.0])
    assert places_of(trace, trace, align(trace, trace), 0, 0) == ()

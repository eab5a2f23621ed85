"""Slopes are looked for along what follows on each other, never across what runs in parallel."""

from dataclasses import replace

import numpy as np
import pytest
from builders import chain, joined, links, trace_of

from gradscope.records import Quantity, Statistic
from gradscope.rules.chains import gradient_profiles, spread_in_order, spread_profiles
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.forward_variance_collapse import ForwardVarianceCollapse
from gradscope.rules.layers import Layer
from gradscope.rules.vanishing_gradient import VanishingGradient


def traced(modules, edges, gradients, joins=(), **more):
    """Linears with gradients, and what some of them were given, on a graph."""
    names = modules.split()
    found = trace_of(
        modules=names, output_grad_l2_norm=gradients, output_std=gradients, weight_rms=np.full(len(names), 0.03), **more
    )
    if joins:
        given = [dict(joins).get(name, np.nan) for name in names]
        found = joined(found, trace_of(modules=names, input_grad_l2_norm=given))
    return replace(found, meta={"flow": links(*edges).to_list()})


def walked(profile):
    return [layer.module + "?" * (not isinstance(layer, Layer)) for layer in profile.layers]


PLAIN = chain("in", "a", "b", "c", "d", "e", "out")
# two blocks of a branch with two layers, a stream around each
RESIDUAL = [
    *chain("in", "stem", "up", "down", "up2", "down2", "head", "out"),
    ("stem", "up2"), ("up2?", "head"),
]  # fmt: skip
ATTENTION = [
    *chain("in", "a", "b", "c", "query", "join", "d", "out"),
    *chain("c", "key", "join"),
]
TOWERS = [*chain("in", "a", "b", "c", "d", "out"), *chain("in", "p", "q", "r", "s", "out")]
HEADS = [*chain("in", "trunk", "a", "b", "c", "d", "out"), *chain("trunk", "p", "q", "r", "s", "out")]


def test_of_a_plain_net_each_layer_is_a_place():
    (profile,) = gradient_profiles(traced("a b c d e", PLAIN, [1, 10, 100, 1000, 1e4]))
    assert walked(profile) == list("abcde")
    np.testing.assert_allclose(profile.values[0], range(5), atol=1e-6)


def test_without_a_graph_the_order_of_execution_serves():
    trace = replace(traced("a b c d e", PLAIN, [1, 10, 100, 1000, 1e4]), meta={})
    (profile,) = gradient_profiles(trace)
    assert walked(profile) == list("abcde")
    assert [walked(p) for p in spread_profiles(trace)] == [walked(p) for p in spread_in_order(trace)]


def test_of_a_residual_net_the_stream_is_the_chain():
    trace = traced("stem up down up2 down2 head", RESIDUAL, [1, 5, 7, 5, 7, 9], joins=[("up2", 2), ("head", 3)])
    (profile,) = gradient_profiles(trace)
    assert walked(profile) == ["stem", "up2?", "head?", "head"]
    np.testing.assert_allclose(10 ** profile.values[0], [1, 2, 3, 9], rtol=1e-5)
    assert spread_profiles(trace) == ()


def test_a_key_whose_gradient_is_small_is_on_no_chain():
    small = [1, 1, 1, 1e-6, 1e-6, 1, 1]
    trace = traced("a b c query key join d", ATTENTION, small)
    assert [walked(p) for p in gradient_profiles(trace)] == [["a", "b", "c", "join", "d"]]


@pytest.mark.parametrize(("edges", "expected"), [(TOWERS, ["abcd", "pqrs"]), (HEADS, ["abcd", "pqrs"])])
def test_towers_and_heads_are_chains_of_their_own(edges, expected):
    names = "trunk a b c d p q r s" if edges is HEADS else "a b c d p q r s"
    trace = traced(names, edges, np.ones(len(names.split())))
    found = ["".join(m for m in walked(p) if m != "trunk") for p in gradient_profiles(trace)]
    assert sorted(found) == expected


def test_towers_that_are_put_together_part_nowhere():
    """Small weights in one of them are what its gradient fades by, as nothing leads around them."""
    edges = [*chain("in", "a", "b", "c", "d", "head", "out"), *chain("in", "p", "q", "head")]
    found = traced("a b c d p q head", edges, [1e-4, 1e-3, 1e-2, 0.1, 1, 1, 1], joins={"head": 1.0})
    tower = next(p for p in gradient_profiles(found) if "a" in walked(p))
    assert walked(tower) == ["a", "b", "c", "d", "head?", "head"]
    assert not any(place.closes for place in tower.layers)
    (finding,) = ForwardVarianceCollapse().check(found)
    assert finding.module == "a"


def test_a_stream_around_a_branch_parts_and_joins():
    names = "stem up down up2 down2 head"
    (profile,) = gradient_profiles(traced(names, RESIDUAL, [5, 0, 0, 0, 0, 1], joins={"up2": 4, "head": 2}))
    assert [place.closes for place in profile.layers] == [name.endswith("?") for name in walked(profile)]


def test_the_steepest_of_several_chains_is_the_finding():
    gradients = [1e-3, 1e-2, 1e-1, 1, 1e-6, 1e-4, 1e-2, 1]
    (finding,) = VanishingGradient().check(traced("a b c d p q r s", TOWERS, gradients))
    assert (finding.module, finding.measured) == ("p", pytest.approx(6.0))


def test_a_gradient_that_grows_along_the_stream_is_found():
    blocks = [f"fc{i}" for i in range(6)]
    edges = [*chain("in", "stem", *blocks, "head", "out"), ("stem", "fc1")]
    edges += [(f"{a}?", b) for a, b in zip(blocks[1:], [*blocks[2:], "head"], strict=True)]
    joins = {name: 10.0 ** -(i + 1) for i, name in enumerate([*blocks[1:], "head"])}
    gradients = [1.0, *[1.0] * 6, 1e-6]
    trace = traced(" ".join(["stem", *blocks, "head"]), edges, gradients, joins=joins.items())
    (finding,) = ExplodingGradient().check(trace)
    assert finding.module == "stem"
    assert finding.measured == pytest.approx(6.0)
    assert finding.sites[1].quantity is Quantity.INPUT_GRAD


def test_the_spread_is_followed_from_join_to_join():
    edges = [*chain("in", "a", "b", "c", "d", "e", "f", "g", "h", "out"), ("a", "e")]
    trace = traced("a b c d e f g h", edges, np.ones(8))
    assert [walked(p) for p in spread_profiles(trace)] == [list("efgh")]
    adapters = [*chain("in", "down", "up", "down2", "up2", "out"), ("in", "down2"), ("in", "out")]
    assert spread_profiles(traced("down up down2 up2", adapters, [1, 1e-4, 1, 1e-4])) == ()


def test_what_was_never_seen_is_left_out():
    trace = traced("a b c d e", PLAIN, [1, np.nan, 1, 1, 1])
    (profile,) = gradient_profiles(trace)
    assert walked(profile) == list("acde")
    assert trace.statistics[Statistic.L2_NORM].shape[0] == 10


def of_parameters(count, gradients, rms=0.02):
    """A net without layers: activation functions, called between products with weights that are the model's own."""
    names = [f"tanh#{i}" for i in range(len(gradients))]
    calls = trace_of(modules=names, types="Tanh", output_grad_l2_norm=gradients, output_std=np.ones(len(names)))
    weights = trace_of(weight_rms=np.full(count, rms), weight_update_l2_norm=np.ones(count), numel=400)
    owned = tuple(replace(s, module="", module_type="Net", name=f"w{s.module}", depth=-1) for s in weights.sites)
    found = joined(calls, replace(weights, sites=owned))
    shapes = {f"w{i}": [20, 20] for i in range(count)}
    return replace(found, meta={"flow": links(*chain("in", *names, "out")).to_list(), "shapes": shapes})


def test_activations_stand_for_layers_whose_weights_are_the_models_own():
    found = of_parameters(6, 10.0 ** np.arange(5))
    (profile,) = gradient_profiles(found)
    assert [found.sites[layer.weight].name for layer in profile.layers] == ["w0", "w1", "w2", "w3", "w4"]
    (fading,) = ForwardVarianceCollapse().check(found)
    assert (fading.module, fading.code) == ("", "GS304")
    assert "w1 has an rms of 0.02" in fading.remedy
    (vanishing,) = VanishingGradient().check(found)
    assert (vanishing.module, round(vanishing.measured)) == ("", 4)


def test_where_activations_and_weights_do_not_match_in_number_only_the_slope_is_known():
    found = of_parameters(9, 10.0 ** np.arange(5))
    (vanishing,) = VanishingGradient().check(found)
    assert vanishing.cause.startswith("The weights between are parameters of no module.")
    assert list(ForwardVarianceCollapse().check(found)) == []


def test_activations_are_no_places_beside_few_weights():
    assert gradient_profiles(of_parameters(3, 10.0 ** np.arange(5))) == ()

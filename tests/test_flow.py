"""The graph of the forward pass: who feeds whom, what is skipped, what everything goes through."""

import pytest
from builders import chain, end, links, trace_of

from gradscope.flow import Flow, flow_of
from gradscope.links import INPUT, OUTPUT, End, Link, Links, Side

ADD = ("AddBackward0",)


def flow(*edges):
    return Flow(links(*edges))


RESIDUAL = [*chain("in", "stem", "norm", "fc", "head", "out"), ("norm?", "head")]
POST_NORM = [*chain("in", "stem", "fc", "norm", "head", "out"), ("stem", "norm")]
SHARED = chain("in", "conv", "relu", "conv2", "relu@1", "head", "out")
HEADS = [*chain("in", "trunk", "mu", "out"), *chain("trunk", "sigma", "out")]
EMBEDDINGS = [*chain("in", "token", "block", "head", "out"), *chain("in", "position", "block")]
LOOP = [("in", "cell"), ("cell", "cell@1"), ("in", "cell@1"), ("cell@1", "head"), ("head", "out")]
TWICE = [*chain("in", "a", "b", "out"), *chain("in", "a@1", "b@1", "out@1")]

BACKBONE = {
    "chain": (chain("in", "a", "b", "c", "out"), "a b c"),
    "residual": (RESIDUAL, "stem head"),
    "post-norm": (POST_NORM, "stem norm head"),
    "a module in two places": (SHARED, "conv relu conv2 head"),
    "two heads": (HEADS, "trunk"),
    "two embeddings": (EMBEDDINGS, "block head"),
    "loop": (LOOP, "cell head"),
    "two passes": (TWICE, "a b"),
    "no output was seen": (chain("in", "a", "b"), "a b"),
}


@pytest.mark.parametrize(("edges", "_"), BACKBONE.values(), ids=BACKBONE)
def test_one_is_before_another_where_a_walk_from_it_comes_there(edges, _):
    graph = flow(*edges)
    for one in graph.modules:
        reached = graph.descendants(graph.returned(one))
        for other in graph.modules:
            assert graph.is_before(one, other) == (not reached.isdisjoint(graph.given(other)))


def test_what_is_before_what_is_known_in_a_circle_too():
    graph = flow(*chain("in", "a", "b", "c", "out"), ("c", "b"))
    assert graph.is_before("c", "b")
    assert graph.is_before("b", "b")
    assert not graph.is_before("b", "a")
    assert not graph.is_before("a", "nowhere")


@pytest.mark.parametrize(("edges", "expected"), BACKBONE.values(), ids=BACKBONE)
def test_the_backbone_is_what_every_path_goes_through(edges, expected):
    assert " ".join(flow(*edges).backbone) == expected


@pytest.mark.parametrize(("edges", "_"), BACKBONE.values(), ids=BACKBONE)
def test_without_a_module_of_the_backbone_no_path_is_left(edges, _):
    found = flow(*edges)
    entries = [v for v, leading in found.before.items() if any(one.module == INPUT for one in leading)]
    outputs = [v for v in found.before if v.module == OUTPUT] or [v for v in found.before if v not in found.after]
    for module in found.modules:
        reached = set(entries)
        waiting = list(reached)
        while waiting:
            for following in found.after.get(waiting.pop(), ()):
                if following not in [*found.returned(module), *reached]:
                    reached.add(following)
                    waiting.append(following)
        assert (module in found.backbone) == (not reached & set(outputs)), module


def test_what_is_returned_beside_the_last_is_no_second_way_out():
    made = Links()
    for source, target, path in [("in", "a", ""), ("a", "b", ""), ("a", "out", "hidden"), ("b", "out", "logits")]:
        one, other = end(source, Side.RETURNED)[0], end(target, Side.GIVEN)[0]
        made.add(Link(one, End(other.module, other.side, path)), 0, 0)
    assert Flow(made).backbone == ("a", "b")


def test_the_nearest_modules_feed_one():
    found = flow(*RESIDUAL)
    assert found.feeds("head") == ("fc", "stem")
    assert found.feeds("fc") == ("norm",)
    assert found.feeds("stem") == ()


def test_order_is_that_of_the_tensors():
    found = flow(*HEADS)
    assert found.is_before("trunk", "sigma")
    assert not found.is_before("mu", "sigma")
    assert not found.is_before("sigma", "trunk")
    assert flow(*SHARED).is_before("conv", "conv2")


def test_a_loop_between_steps_ends():
    found = flow(("in", "cell"), ("cell", "cell"), ("cell", "head"), ("head", "out"))
    assert found.is_before("cell", "head")
    assert found.backbone in (("head",), ())  # what lies on a loop has no order


def test_one_tensor_as_query_key_and_value_is_no_loop():
    found = flow(*chain("in", "a", "attention", "head", "out"), ("attention?", "attention"))
    assert found.backbone == ("a", "attention", "head")


def test_the_way_to_one_of_several_heads():
    found = flow(*HEADS)
    assert [end.module for end in found.ends] == ["sigma", "mu"]
    assert list(dict.fromkeys(v.module for v in found.spine_to(found.ends[0]))) == ["trunk", "sigma"]


def test_the_ways_to_where_branches_meet():
    found = flow(("in", "a"), ("a", "b"), ("b", "join"), ("in", "c"), ("c", "join"), ("join", "out"))
    foot = found.given("join")[0]
    entries = found.entries_before(foot)
    assert [entry.module for entry in entries] == ["a", "c"]
    ways = [found.spine_from(entry, foot) for entry in entries]
    assert [list(dict.fromkeys(v.module for v in way)) for way in ways] == [["a", "b", "join"], ["c", "join"]]


def test_a_trace_without_it_has_none():
    assert flow_of(trace_of(output_rms=[1.0])) is None

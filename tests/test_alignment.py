"""Modules of two models are paired by name, a prefix that one of them has aside."""

import pytest
from builders import trace_of

from gradscope.alignment import Prefix, align


def net(*modules, types="Linear"):
    return trace_of(steps=1, modules=list(modules), types=types, output_rms=[1.0] * len(modules))


PREFIXED = {
    "wrapped in B": (["fc", "head"], ["module.fc", "module.head"], Prefix("module.", "b")),
    "wrapped in A": (["module.fc", "module.head"], ["fc", "head"], Prefix("module.", "a")),
    "a part of B": (["stem", "layer.0", "layer.1"], ["backbone.stem", "backbone.layer.0", "backbone.layer.1", "head"],
                    Prefix("backbone.", "b")),
    "two levels": (["x.fc", "x.out"], ["a.b.x.fc", "a.b.x.out"], Prefix("a.b.", "b")),
    "one module": (["fc"], ["module.fc"], Prefix("module.", "b")),
}  # fmt: skip


@pytest.mark.parametrize(("in_a", "in_b", "prefix"), PREFIXED.values(), ids=PREFIXED)
def test_a_prefix_that_one_has_and_the_other_lacks_is_recognised(in_a, in_b, prefix):
    found = align(net(*in_a), net(*in_b))
    assert found.prefix == prefix
    longer = in_b if prefix.of == "b" else in_a
    assert len(found.pairs) == sum(name.startswith(prefix.text) for name in longer)
    for one, other in found.pairs:
        assert (one, other).index(max(one, other, key=len)) == "ab".index(prefix.of)
        assert max(one, other, key=len) == prefix.text + min(one, other, key=len)
        assert found.in_a(other) == one


def test_names_that_are_the_same_need_no_prefix():
    found = align(net("fc", "old", "head"), net("fc", "new", "head"))
    assert found.prefix is None
    assert found.pairs == (("fc", "fc"), ("head", "head"))
    assert (found.only_a, found.only_b) == (("old",), ("new",))
    assert [found.in_a(name) for name in ("fc", "new", "")] == ["fc", "new", ""]


def test_a_few_names_in_common_make_no_prefix():
    a = net("fc", *(f"a{i}" for i in range(9)))
    found = align(a, net("encoder.fc", *(f"b{i}" for i in range(9))))
    assert found.prefix is None
    assert found.pairs == ()


def test_a_module_outside_the_prefix_is_paired_as_it_is_called():
    found = align(net("l.0", "l.1", "head"), net("body.l.0", "body.l.1", "head"))
    assert found.pairs == (("l.0", "body.l.0"), ("l.1", "body.l.1"), ("head", "head"))


def test_no_module_is_paired_twice():
    found = align(net("fc", "out"), net("module.fc", "module.out", "fc"))
    assert found.pairs == (("fc", "module.fc"), ("out", "module.out"))
    assert found.only_b == ("fc",)


def test_a_container_that_never_ran_is_called_as_in_a():
    wrapped = align(net("block.fc", "block.out"), net("module.block.fc", "module.block.out"))
    assert wrapped.in_a("module.block") == "block"
    bare = align(net("module.block.fc", "module.block.out"), net("block.fc", "block.out"))
    assert bare.in_a("block") == "module.block"


def test_another_class_is_said():
    a, b = net("fc", "act", types=["Linear", "Sigmoid"]), net("fc", "act", types=["Linear", "ReLU"])
    assert align(a, b).retyped == {"act": ("Sigmoid", "ReLU")}


def test_the_order_is_that_of_the_execution():
    a = net("b", "a", "c")
    assert [one for one, _ in align(a, a).pairs] == ["b", "a", "c"]
    assert align(a, net("x")).only_a == ("b", "a", "c")

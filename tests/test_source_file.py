import ast
import os
import textwrap

import pytest

from gradscope.registrations import Maker, Scope
from gradscope.source_file import LARGEST, parsed


@pytest.fixture
def source_of(tmp_path):
    def parse(text):
        path = tmp_path / "a.py"
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return parsed(str(path), path.stat().st_mtime_ns, path.stat().st_size)

    return parse


def returned(source, name="f"):
    """The children of what a function of the file returns: lines by name, or in order."""
    scope = Scope(source.functions[name][-1])
    children = source.children_of(next(source.returned(scope)))
    return {key: makers[0].line for key, makers in children.named.items()} or [one.line for one in children.listed]


def test_classes_and_functions_by_their_qualified_names(source_of):
    source = source_of("""
        class A:
            class B: pass
            def m(self):
                class C: pass
        if True:
            def f(): pass
        else:
            def f(): pass
        try:
            import x
        except ImportError:
            class D: pass
    """)
    assert sorted(source.classes) == ["A", "A.B", "A.m.<locals>.C", "D"]
    assert [node.lineno for node in source.functions["f"]] == [6, 8]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return Seq(\n    A(),\n    B(),\n)", [3, 4]),
        ("x = [A()]\nx.append(B())\nreturn Seq(*x)", [2, 3]),
        ("x = [A()]\nx += [B()]\nreturn List(x)", [2, 3]),
        ("x = A(1, 2)\nreturn Seq(x)", [3]),
        ("return Seq(A()) if x else Seq(B())", [2, 2]),
        ("x = OrderedDict()\nx['a'] = A()\nx['b'] = B()\nreturn Seq(x)", {"a": 3, "b": 4}),
        ("return Dict({'a': A(),\n  'b': B()})", {"a": 2, "b": 3}),
        ("x = Seq()\nx.add_module('a', A())\nreturn x", {"a": 3}),
        ("return Seq(*make())", [2]),
        ("return Seq(*helper())", [20]),
        ("return Seq(Seq(A(), B()))", [2]),
        ("x = x\nreturn Seq(*x)", [3]),
        ("x = [*y]\ny = [*x]\nreturn Seq(*x)", [3]),
        ("return 1", []),
    ],
)
def test_what_an_expression_holds(source_of, body, expected):
    text = "def f(x):\n" + textwrap.indent(body, "    ") + "\n"
    text += "#\n" * (18 - text.count("\n")) + "def helper():\n    return [A()]\n"
    assert returned(source_of(text)) == expected


def test_functions_that_call_each_other_in_a_circle_end(source_of):
    source = source_of("def f():\n    return g()\ndef g():\n    return f()\n")
    assert returned(source) == []


def test_the_constructor_is_read_before_the_other_methods(source_of):
    source = source_of("""
        class Net:
            def build(self):
                self.x = Other()
            def __init__(self):
                self.x = Other()
    """)
    (node,) = source.classes["Net"]
    assert [one.line for one in source.of_class(node).named["x"]] == [5, 3]


def test_a_function_without_parameters_has_no_self(source_of):
    source = source_of("class Net:\n    def f():\n        self.x = 1\n")
    assert source.of_class(source.classes["Net"][0]).named == {}


def test_what_cannot_be_read_is_none(tmp_path):
    path = tmp_path / "a.py"
    assert parsed(str(path), 0, 0) is None
    path.write_text("x = 1", encoding="utf-8")
    assert parsed(str(path), 1, LARGEST + 1) is None
    path.write_text("(" * 10_000, encoding="utf-8")
    assert parsed(str(path), 2, os.stat(path).st_size) is None


def test_a_file_is_read_again_when_it_has_changed(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("class A: pass", encoding="utf-8")
    assert list(parsed(str(path), 1, 13).classes) == ["A"]
    path.write_text("class B: pass", encoding="utf-8")
    assert list(parsed(str(path), 1, 13).classes) == ["A"]
    assert list(parsed(str(path), 2, 13).classes) == ["B"]


def test_an_expression_that_cannot_be_told_has_no_children(source_of):
    source = source_of("def f(): pass")
    assert source.children_of(Maker(1, None, Scope(source.functions["f"][0]))).listed == []
    assert source.children_of(Maker(1, ast.Constant(1), Scope(source.functions["f"][0]))).listed == []

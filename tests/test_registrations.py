import ast

import pytest

from gradscope.registrations import Children, Maker, Scope, elements, last_name, pairs, read, statements


def scope_of(text):
    function = ast.parse(text).body[0]
    return Scope(function)


SCOPE = scope_of("def f():\n    pass")


def expression(text):
    return ast.parse(text, mode="eval").body


def maker(line, text, *, repeated=False):
    return Maker(line, expression(text), SCOPE, repeated)


def listed(*makers):
    children = Children()
    children.listed += makers
    return children


def line(children, position, total, class_name="Linear"):
    found = children.maker(str(position), position, total, class_name)
    return found and found.line


def test_a_list_is_counted_from_both_ends_around_what_is_repeated():
    children = listed(maker(1, "a()"), maker(2, "b()", repeated=True), maker(3, "c()"))
    assert [line(children, i, 5) for i in range(5)] == [1, 2, 2, 2, 3]
    assert [line(children, i, 2) for i in range(2)] == [1, 3]


def test_without_anything_repeated_more_children_than_entries_are_not_told():
    children = listed(maker(1, "a()"), maker(2, "b()"))
    assert [line(children, i, 3) for i in range(3)] == [1, 2, None]


def test_of_several_that_are_repeated_the_class_decides():
    children = listed(maker(1, "nn.Linear()", repeated=True), maker(2, "nn.ReLU()", repeated=True))
    assert [line(children, i, 4, name) for i, name in enumerate(["Linear", "ReLU", "ReLU", "Other"])] == [1, 2, 2, 1]


def test_a_name_is_looked_up_before_a_pattern_and_a_pattern_before_anything():
    children = Children()
    children.add(expression("name"), maker(1, "x"))
    children.add(expression("f'layer{i}'"), maker(2, "x"))
    children.add(expression("'layer1'"), maker(3, "x"))
    assert [children.maker(name, 0, 1, "X").line for name in ("layer1", "layer2", "head")] == [3, 2, 1]


def test_a_placeholder_is_not_what_makes_a_child():
    children = Children()
    children.named["x"] = [maker(1, "None"), maker(2, "make()")]
    assert children.maker("x", 0, 1, "Linear").line == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a(), b()]", [(1, False), (1, False)]),
        ("[a(),\n *b]", [(1, False), (2, True)]),
        ("[a()\n for _ in x]", [(1, True)]),
        ("[a()] + [b()]", [(1, False), (1, False)]),
        ("[a()] * 3", [(1, True)]),
        ("make()", [(1, True)]),
    ],
)
def test_the_elements_of_a_list(text, expected):
    assert [(one.line, one.repeated) for one in elements(expression(text), SCOPE)] == expected


def test_pairs_of_names_and_modules():
    found = pairs(expression("[('a', A()),\n ('b', B())]"), SCOPE)
    assert {name: makers[0].line for name, makers in found.named.items()} == {"a": 1, "b": 2}
    assert pairs(expression("[('a', A()), B()]"), SCOPE) is None
    assert pairs(expression("x"), SCOPE) is None


def test_statements_know_whether_they_stand_in_a_loop_or_a_branch():
    text = """
def f():
    a = 1
    with x:
        b = 2
    for _ in y:
        c = 3
    try:
        d = 4
    except E:
        e = 5
    match z:
        case 1:
            g = 6
"""
    function = ast.parse(text).body[0]
    found = {statement.targets[0].id: loose for statement, loose in statements(function.body, False)
             if isinstance(statement, ast.Assign)}  # fmt: skip
    assert found == {"a": False, "b": False, "c": True, "d": True, "e": True, "g": True}


def test_what_is_added_to_a_name_is_kept_apart_from_what_made_it():
    scope = scope_of("""def f():
    x = []
    x.append(A())
    x.extend([B(), C()])
    x.insert(0, D())
    x.update({"k": E()})
    x["l"] = F()
    x += [G()]
    y.other(H())
""")
    children = Children()
    for statement, loose in statements(scope.function.body, False):
        read(children, statement, scope, lambda target: getattr(target, "id", None), loose)
    inside = children.of("x")
    assert [one.line for one in children.named["x"]] == [2]
    assert [(one.line, one.repeated) for one in inside.listed] == [(3, False), (4, False), (4, False), (5, True),
                                                                   (8, False)]  # fmt: skip
    assert {name: makers[0].line for name, makers in inside.named.items()} == {"k": 6, "l": 7}


def test_the_last_part_of_a_name():
    assert [last_name(expression(text)) for text in ("nn.Linear", "Linear", "x()")] == ["Linear", "Linear", ""]

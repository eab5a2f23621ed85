import pytest

from gradscope.toml_table import Table, in_brackets, written

READ = [
    ("text", {}, "a", "a"),
    ("text", {"blank": True}, "", ""),
    ("texts", {}, ["a", "b"], ("a", "b")),
    ("texts", {}, [], ()),
    ("choice", {"choices": ["a", "b"]}, "b", "b"),
    ("number", {}, 3, 3.0),
    ("number", {}, -0.5, -0.5),
    ("positive", {}, 0.5, 0.5),
    ("whole", {"least": 1}, 1, 1),
    ("switch", {}, False, False),
]
REFUSED = [
    ("text", {}, 3, '`k = 3` must be text, in quotes ("…")'),
    ("text", {}, " ", '`k = " "` must not be blank'),
    ("texts", {}, "GS1", '`k = "GS1"` must be a list (["GS1"])'),
    ("texts", {}, ["a", 1], '`k = ["a", 1]` must be a list of texts'),
    ("choice", {"choices": ["a", "b"]}, "c", "`k = \"c\"` must be one of 'a', 'b'"),
    ("choice", {"choices": ["a"]}, ["a"], "`k = [\"a\"]` must be one of 'a'"),
    ("number", {}, True, "`k = true` must be a finite number"),
    ("number", {}, float("nan"), "`k = nan` must be a finite number"),
    ("number", {}, 10**400, f"`k = 1{'0' * 58}…` must be a finite number"),
    ("number", {}, "1", '`k = "1"` must be a finite number'),
    ("positive", {}, 0, "`k = 0` must be above 0"),
    ("positive", {}, float("inf"), "`k = inf` must be a finite number"),
    ("whole", {"least": 1}, 0, "`k = 0` must be a whole number, 1 or more"),
    ("whole", {"least": 1}, 2.0, "`k = 2.0` must be a whole number, 1 or more"),
    ("whole", {"least": 1}, True, "`k = true` must be a whole number, 1 or more"),
    ("switch", {}, 1, "`k = 1` must be true or false"),
]


@pytest.mark.parametrize(("kind", "arguments", "value", "expected"), READ)
def test_a_value_of_its_type_is_read(kind, arguments, value, expected):
    mistakes = []
    read = getattr(Table({"k": value}, mistakes), kind)("k", **arguments)
    assert read == expected
    assert type(read) is type(expected)
    assert mistakes == []


@pytest.mark.parametrize(("kind", "arguments", "value", "mistake"), REFUSED)
def test_another_value_is_a_mistake_and_is_quoted(kind, arguments, value, mistake):
    mistakes = []
    assert getattr(Table({"k": value}, mistakes), kind)("k", **arguments) is None
    assert mistakes == [mistake]


@pytest.mark.parametrize(("kind", "arguments"), {kind: arguments for kind, arguments, *_ in READ}.items())
def test_what_is_not_there_is_no_mistake(kind, arguments):
    mistakes = []
    assert getattr(Table({}, mistakes), kind)("k", **arguments) is None
    assert mistakes == []


def test_mistakes_of_inner_tables_say_where():
    mistakes = []
    outer = Table({"a": {"b": {"c": 1}}, "many": [{"name": "x", "c": 1}, {"c": 2}]}, mistakes)
    outer.table("a").table("b").text("c")
    for inner in outer.tables("many"):
        inner.text("c")
    assert [mistake.partition(" must")[0] for mistake in mistakes] == [
        "`a.b.c = 1`",
        "`c = 1` of many 'x'",
        "`c = 2` of many number 2",
    ]


def test_what_is_no_table_reads_as_an_empty_one():
    mistakes = []
    outer = Table({"a": 1, "many": {"name": "x"}}, mistakes)
    assert outer.table("a").keys == ()
    assert outer.tables("many") == ()
    assert mistakes == [
        "`a = 1` must be a table",
        '`many = {name = "x"}` must be tables, each under [[tool.gradscope.many]]',
    ]


def test_unknown_and_missing_keys_are_told():
    mistakes = []
    table = Table({"colour": 1, "size": 2}, mistakes, of=" of check 'a'")
    table.refuse_others(["color", "size"])
    table.require(["size", "x", "y", "z"])
    table.require(["w"])
    assert mistakes == [
        "`colour` of check 'a' is no setting (did you mean 'color'?)",
        "`x`, `y` and `z` of check 'a' are missing",
        "`w` of check 'a' is missing",
    ]


def test_values_are_written_as_toml_has_them():
    value = {"a": [True, 1, "ü\n"], "b": 0.5}
    assert written(value) == '{a = [true, 1, "ü\\n"], b = 0.5}'
    assert written("x" * 100) == '"' + "x" * 58 + "…"


def test_a_way_out_stands_in_brackets():
    assert in_brackets("widht", ["width", "depth"]) == " (did you mean 'width'?)"
    assert in_brackets("?", ["width", "depth"]) == " (known are depth, width)"

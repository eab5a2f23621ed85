import functools

import pytest

from gradscope.trial.signatures import a, accepts, called, first_parameter, takes


def plain(x, y=1, *rest, key, **more): ...


def injected(function):
    """A wrapper that gives the first argument itself."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(1, *args, **kwargs)

    return wrapper


@injected
def wrapped(config, step): ...


class Net:
    def __init__(self, width): ...

    def __call__(self, x): ...


def test_a_call_is_tried_without_being_made():
    assert accepts(plain, 1, key=2)
    assert not accepts(plain, 1)
    assert accepts(Net, 3)
    assert not accepts(Net)
    assert accepts(Net(3), 1)
    assert not accepts(Net(3))


def test_what_cannot_be_known_is_accepted():
    assert accepts(max, 1, 2, 3, 4)  # built in, without a signature
    assert accepts(wrapped, 1)  # the wrapper gives the rest


def test_the_first_parameter_is_the_innermost_function_s():
    assert first_parameter(wrapped).name == "config"
    assert first_parameter(lambda: 1) is None
    assert first_parameter(lambda *, x: 1) is None


@pytest.mark.parametrize(
    ("function", "text"),
    [(plain, "(x, y=…, *rest, key, **more)"), (lambda: 1, "()"), (Net, "(width)"), (type, "(…)")],
)
def test_parameters_as_a_person_names_them(function, text):
    assert takes(function) == text


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (plain, "plain"),
        (Net, "Net"),
        (Net(1), "Net"),
        (functools.partial(plain, 1), "partial(plain)"),
        ("cpu", "'cpu'"),
        (0.1, "0.1"),
        (None, "None"),
        ("x" * 100, "str"),
        ([1], "list"),
    ],
)
def test_what_was_given_has_a_short_name(thing, name):
    assert called(thing) == name


def test_articles():
    assert (a([]), a(1), a(None), a(plain)) == ("a list", "an int", "None", "a function")

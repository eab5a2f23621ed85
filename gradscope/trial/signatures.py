"""What a function of the user's can be called with, asked before it is called.

So a wrong signature is one sentence, and a TypeError from inside the user's code is not mistaken for one.
"""

import inspect
from collections.abc import Callable
from functools import partial

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def accepts(function: Callable[..., object], *arguments: object, **named: object) -> bool:
    """Whether `function` can be called so; True where that cannot be known before.

    Of a wrapped function the wrapper counts as well as what it wraps: it may add arguments or take them away.
    """
    signatures = [_signature(function, follow) for follow in (True, False)]
    return any(signature is None or _binds(signature, arguments, named) for signature in signatures)


def first_parameter(function: Callable[..., object]) -> inspect.Parameter | None:
    """The first parameter that can be given by position, as the innermost function has it."""
    signature = _signature(function, True)
    found = [] if signature is None else [p for p in signature.parameters.values() if p.kind in _POSITIONAL]
    return found[0] if found else None


def takes(function: Callable[..., object]) -> str:
    """The parameters as a person would name them: "(outputs, targets, weight=…)"."""
    signature = _signature(function, True)
    if signature is None:
        return "(…)"
    stars: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    words = [
        stars.get(p.kind, "") + p.name + ("" if p.default is inspect.Parameter.empty else "=…")
        for p in signature.parameters.values()
    ]
    return f"({', '.join(words)})"


def called(thing: object) -> str:
    """What a person would call something that was given: a function's name, a class's, an object's type."""
    if isinstance(thing, partial):
        return f"partial({called(thing.func)})"
    name = getattr(thing, "__qualname__", None)
    if isinstance(name, str):
        return name.rpartition("<locals>.")[2]
    text = repr(thing) if isinstance(thing, str | int | float | bool | None) else ""
    return text if 0 < len(text) <= 60 else type(thing).__name__


def a(noun: object) -> str:
    """A type's name with its article, for an object: "a list", "an int"; None is None."""
    if noun is None:
        return "None"
    name = type(noun).__name__
    return f"a{'n' if name[0].lower() in 'aeiou' else ''} {name}"


def _signature(function: Callable[..., object], follow_wrapped: bool) -> inspect.Signature | None:
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):  # of built-in functions
        return None


def _binds(signature: inspect.Signature, arguments: tuple[object, ...], named: dict[str, object]) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True

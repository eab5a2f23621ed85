"""What is worked out of something finished is worked out once, however many ask.

A dozen rules ask a trace for its layers, its parameters and its forward graph; of a thousand sites each costs as much
as a rule.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

_Finished = TypeVar("_Finished")
_Found = TypeVar("_Found")


def once(function: Callable[[_Finished], _Found]) -> Callable[[_Finished], _Found]:
    """Calls `function` once for each object and keeps what it returned for as long as the object lives.

    What is returned must not refer to the object, or neither is ever freed; all callers get the same, so nobody may
    change it.
    """
    known: WeakKeyDictionary[_Finished, _Found] = WeakKeyDictionary()

    @wraps(function)
    def recalled(finished: _Finished) -> _Found:
        try:
            return known[finished]
        except KeyError:
            found = known[finished] = function(finished)
            return found

    return recalled

"""Every error gradscope raises on purpose: one family, one sentence each.

A finding is a result, not an error; a rule that lacks data raises `NotJudged`, which the engine turns into a line of
the diagnosis.
"""

import difflib
from collections.abc import Iterable

MOST_KNOWN = 40  # names that a message lists


class GradscopeError(Exception):
    """Base of all errors that gradscope raises on purpose; its text is one sentence for the user."""


class UsageError(GradscopeError):
    """gradscope was called in a way that cannot work."""


class TraceError(GradscopeError):
    """A trace cannot be read, written, or does not hold what was asked of it."""


class PluginError(GradscopeError):
    """An entry point of a third party does not offer what its group promises."""


class MissingExtraError(GradscopeError, ImportError):
    """An integration was imported without the library that it adapts to."""


class NotJudged(GradscopeError):  # noqa: N818 (it is an outcome, as pytest's Skipped is)
    """A rule lacks the data it needs; the text says what is missing."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The way out for a misspelt word: ``; did you mean 'x'?``, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(known) - MOST_KNOWN} more" if len(known) > MOST_KNOWN else ""
    return f"; known are {', '.join(known[:MOST_KNOWN])}{more}." if known else "; none is known."

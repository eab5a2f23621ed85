"""Where in the user's source a module of the model is written."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of a file.

    Attributes:
        file: With forward slashes; relative to the root of the project where it lies in it, else absolute.
        line: From 1 on.
    """

    file: str
    line: int

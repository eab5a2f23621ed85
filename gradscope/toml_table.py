"""A table of a TOML file, read key by key: what is wrong is collected, so that one sentence can tell all of it."""

import json
import sys
from collections.abc import Iterable, Mapping

from gradscope.errors import nearest

_LONGEST = 60  # characters of a value that are quoted


class Table:
    """Values under their keys, each asked for in the type that it must have.

    A value of another type is a mistake and reads as None, as one that is not there does.

    Attributes:
        mistakes: Half sentences that quote what was written; shared by all tables of a file.
    """

    def __init__(
        self, values: Mapping[str, object], mistakes: list[str], *, path: str = "", joint: str = " = ", of: str = ""
    ) -> None:
        """A mistake reads `path key joint value` of: "rules.dead-units.", " = " and " of check 'a'", say."""
        self._values, self.mistakes, self._path, self._joint, self._of = values, mistakes, path, joint, of

    def __contains__(self, key: str) -> bool:
        return key in self._values

    @property
    def keys(self) -> tuple[str, ...]:
        """All that stand in it."""
        return tuple(self._values)

    def refuse(self, key: str, why: str) -> None:
        """Notes that the value of `key` is wrong: `why` is what it must be."""
        self.mistakes.append(f"`{self._path}{key}{self._joint}{written(self._values[key])}`{self._of} {why}")

    def refuse_word(self, key: str, word: str, why: str) -> None:
        """Notes that one word of what stands under `key` is wrong."""
        self.mistakes.append(f"`{self._path}{key}`{self._of} names {word!r}, {why}")

    def refuse_others(self, known: Iterable[str]) -> None:
        """Notes every key that is not `known`, with the nearest one that is."""
        known = tuple(known)
        for key in self._values:
            if key not in known:
                self.mistakes.append(f"`{self._path}{key}`{self._of} is no setting{in_brackets(key, known)}")

    def require(self, keys: Iterable[str]) -> None:
        """Notes those of `keys` that are missing."""
        missing = [f"`{key}`" for key in keys if key not in self._values]
        if missing:
            listed = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
            self.mistakes.append(f"{listed}{self._of} {'is' if len(missing) == 1 else 'are'} missing")

    def text(self, key: str, *, blank: bool = False) -> str | None:
        """Words; without any only where it may be `blank`."""
        value = self._values.get(key)
        if isinstance(value, str) and (blank or value.strip()):
            return value
        if key in self:
            self.refuse(key, "must not be blank" if isinstance(value, str) else 'must be text, in quotes ("…")')
        return None

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of words."""
        value = self._values.get(key)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(str(item) for item in value)
        if key in self:
            self.refuse(key, f"must be a list{f' ({written([value])})' if isinstance(value, str) else ' of texts'}")
        return None

    def choice(self, key: str, choices: Iterable[str]) -> str | None:
        """One of `choices`."""
        choices = tuple(choices)
        value = self._values.get(key)
        if isinstance(value, str) and value in choices:
            return value
        if key in self:
            self.refuse(key, f"must be one of {', '.join(map(repr, choices))}")
        return None

    def number(self, key: str) -> float | None:
        """A finite number."""
        value = self._values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return float(value)
        if key in self:
            self.refuse(key, "must be a finite number")
        return None

    def positive(self, key: str) -> float | None:
        """A number above 0."""
        value = self.number(key)
        if value is not None and value <= 0:
            self.refuse(key, "must be above 0")
            return None
        return value

    def whole(self, key: str, *, least: int) -> int | None:
        """A whole number, at least `least`."""
        value = self._values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        if key in self:
            self.refuse(key, f"must be a whole number, {least} or more")
        return None

    def switch(self, key: str) -> bool | None:
        """True or false."""
        value = self._values.get(key)
        if isinstance(value, bool):
            return value
        if key in self:
            self.refuse(key, "must be true or false")
        return None

    def table(self, key: str) -> "Table":
        """The table of that name; an empty one where there is none."""
        value = self._values.get(key, {})
        if not isinstance(value, Mapping):
            self.refuse(key, "must be a table")
            value = {}
        return Table(value, self.mistakes, path=f"{self._path}{key}.", of=self._of)

    def tables(self, key: str) -> "tuple[Table, ...]":
        """The tables under `[[key]]`; one with a name says it in its mistakes, another its place."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            self.refuse(key, f"must be tables, each under [[tool.gradscope.{key}]]")
            return ()
        return tuple(
            Table(item, self.mistakes, of=f" of {key} {_called(item, index)}") for index, item in enumerate(value, 1)
        )


def _called(table: Mapping[str, object], index: int) -> str:
    name = table.get("name")
    return repr(name) if isinstance(name, str) and name.strip() else f"number {index}"


def written(value: object) -> str:
    """`value` as TOML has it, shortened."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list):
        text = f"[{', '.join(map(written, value))}]"
    elif isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key} = {written(item)}' for key, item in value.items())}}}"
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def in_brackets(word: str, known: Iterable[str]) -> str:
    """The way out for a misspelt word inside of a sentence: `` (did you mean 'x'?)``."""
    return f" ({nearest(word, known).removeprefix('; ').removesuffix('.')})"

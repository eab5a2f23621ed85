"""A small table of exact numbers, such as every hidden state of a short sequence: plain data, to be checked by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradscope.findings import Json

Cell: TypeAlias = str | float | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """One table.

    Attributes:
        title: What it shows.
        heads: One for each column; the first column names the rows.
        rows: A word, a number, or a vector for each column. A number that does not exist is NaN.
        note: A sentence under the table; "" for none.
        decimals: Of every number.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    decimals: int = 4

    def to_dict(self) -> dict[str, Json]:
        """The table as `--format json` has it, a vector as a list; the numbers are not rounded."""
        return {
            "title": self.title,
            "heads": list[Json](self.heads),
            "rows": [[_plain(cell) for cell in row] for row in self.rows],
            "note": self.note,
        }


def _plain(cell: Cell) -> Json:
    return list[Json](cell) if isinstance(cell, Sequence) and not isinstance(cell, str) else cell

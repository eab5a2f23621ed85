"""Names of modules in a table: a module may be called anything, and its line stays one line."""

import re

from rich.cells import cell_len, set_cell_size

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def on_one_line(text: str) -> str:
    """`text` without what a terminal would obey, line breaks among it."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(name: str, width: int) -> str:
    """`name` in `width` cells at most: what is too long lacks its middle, as names differ at either end."""
    if cell_len(name) <= width:
        return name
    tail = name[-max(width // 2, 1) :]
    while tail and cell_len(tail) > width // 2:
        tail = tail[1:]
    head = set_cell_size(name, max(width - 1 - cell_len(tail), 0)).rstrip()
    return f"{head}…{tail}"

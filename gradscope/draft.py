"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A name for a file in the folder of `target`, to be renamed; it is deleted if it was not."""
    draft = target.parent / f".gradscope-{secrets.token_hex(8)}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def write_whole(text: str, path: Path) -> None:
    """Replaces what lies at `path`, links followed, by `text` as UTF-8.

    Raises:
        OSError: It cannot be written; then what lay there is as it was.
    """
    target = Path(os.path.realpath(path))
    with draft_of(target) as draft:
        draft.write_text(text, encoding="utf-8", newline="")
        os.replace(draft, target)

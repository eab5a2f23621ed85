"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copymode


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A name for a file in the folder of `target`, to be renamed; it is deleted if it was not."""
    draft = target.parent / f".gradscope-{secrets.token_hex(8)}"
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft that takes the place and the mode of what lies at `path`, links followed, unless something is raised."""
    target = Path(os.path.realpath(path))
    with draft_of(target) as draft:
        yield draft
        if target.exists():
            copymode(target, draft)
        os.replace(draft, target)


def write_whole(text: str, path: Path) -> None:
    """Replaces what lies at `path` by `text` as UTF-8.

    Raises:
        OSError: It cannot be written; then what lay there is as it was.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")

"""What to install where a library is missing that only one integration needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from gradscope.errors import MissingExtraError


@contextmanager
def extra(name: str, library: str) -> Iterator[None]:
    """Around the import of `library`, which the extra `name` brings.

    Raises:
        MissingExtraError: It cannot be imported; the sentence says what to install.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"gradscope.integrations.{library} cannot import {library} ({error}); pip install 'gradscope[{name}]'"
        ) from error

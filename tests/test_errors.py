import pytest

from gradscope import errors
from gradscope.errors import GradscopeError, nearest


def test_all_errors_are_of_one_family() -> None:
    family = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)}
    assert len(family) > 1
    assert all(issubclass(error, GradscopeError) for error in family)


@pytest.mark.parametrize(
    ("word", "known", "way_out"),
    [
        ("rsm", ["rms", "mean"], "; did you mean 'rms'?"),
        ("zzz", ["rms", "mean"], "; known are mean, rms."),
        ("zzz", [], "; none is known."),
    ],
)
def test_a_misspelt_word_shows_the_way_out(word: str, known: list[str], way_out: str) -> None:
    assert nearest(word, known) == way_out

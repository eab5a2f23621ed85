"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from gradscope.draft import draft_of, write_whole


def test_a_draft_that_is_not_renamed_leaves_nothing(tmp_path: Path) -> None:
    with draft_of(tmp_path / "file") as draft:
        draft.write_text("half")
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


def test_what_lay_there_is_replaced_through_its_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole("νέο\n", tmp_path / "link")
    assert (tmp_path / "real").read_bytes() == "νέο\n".encode()
    assert (tmp_path / "link").is_symlink()
    assert os.name == "nt" or (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert len(list(tmp_path.iterdir())) == 2


def test_a_text_that_cannot_be_encoded_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole("\ud800", tmp_path / "file")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]

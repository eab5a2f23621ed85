import importlib
import sys

import pytest

from gradscope.awaited import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "late_one.py").write_text("value = 3\nseen = __loader__\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "late_one"
    sys.modules.pop("late_one", None)


def test_it_acts_once_after_the_import(module):
    values = []
    when_imported(module, lambda: values.append(sys.modules[module].value))
    importlib.import_module("colorsys")
    assert values == []
    importlib.import_module(module)
    importlib.import_module(module)
    assert values == [3]


def test_nothing_of_it_is_left(module):
    finders = list(sys.meta_path)
    when_imported(module, lambda: None)
    loaded = importlib.import_module(module)
    assert sys.meta_path == finders
    assert type(loaded.__loader__).__name__ == type(loaded.__spec__.loader).__name__ == "SourceFileLoader"
    assert loaded.seen is loaded.__loader__


def test_what_is_imported_already_is_not_waited_for(module):
    importlib.import_module(module)
    acts = []
    when_imported(module, lambda: acts.append(1))
    assert acts == [1]


def test_a_module_that_cannot_be_found_yet_is_still_waited_for(module, tmp_path):
    acts = []
    (tmp_path / "late_one.py").rename(tmp_path / "hidden.txt")
    importlib.invalidate_caches()
    when_imported(module, lambda: acts.append(1))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)
    (tmp_path / "hidden.txt").rename(tmp_path / "late_one.py")
    importlib.invalidate_caches()
    importlib.import_module(module)
    assert acts == [1]

import signal
import sys
import types

import pytest

from gradscope import script
from gradscope.errors import UsageError


@pytest.fixture
def process(monkeypatch):
    """What a script changes for good, put back."""
    monkeypatch.setattr(sys, "argv", ["gradscope"])
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(script, "join_threads", lambda: None)  # pytest's process goes on


@pytest.fixture
def run(process, tmp_path):
    def write_and_run(source, *arguments):
        (tmp_path / "train.py").write_text(source)
        return script.run(str(tmp_path / "train.py"), arguments, is_module=False)

    return write_and_run


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("x = 1", 0),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit(True)", 1),
        ("import sys; sys.exit('no')", 1),
        ("raise SystemExit(3)", 3),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", 128 + signal.SIGINT),
    ],
)
def test_exit_codes_are_python_s(run, capsys, source, code):
    outcome = run(source)
    assert outcome.code == code
    assert (outcome.error is not None) == ("/" in source or "Key" in source)
    assert ("no\n" in capsys.readouterr().err) == ("'no'" in source)


def test_main_is_the_script(run, tmp_path):
    run(
        "import sys, pickle\nclass Net: pass\npickle.loads(pickle.dumps(Net()))\nargv, first = sys.argv, sys.path[0]",
        "--x",
    )
    main = sys.modules["__main__"]
    path = tmp_path / "train.py"
    assert main.argv == [str(path), "--x"]
    assert main.first == str(tmp_path)
    assert (main.__name__, main.__file__, main.__spec__, main.__package__) == ("__main__", str(path), None, None)
    assert main.__loader__.get_source("__main__").startswith("import sys")


def test_a_traceback_begins_in_the_script(run, capsys):
    run("def f():\n    1 / 0\ntry:\n    f()\nexcept ZeroDivisionError as error:\n    raise ValueError from error")
    err = capsys.readouterr().err
    assert err.count("Traceback (most recent call last):") == 2
    assert "script.py" not in err
    assert err.splitlines()[1].endswith('train.py", line 4, in <module>')


def test_neighbours_come_before_what_gradscope_has_loaded(run, tmp_path, monkeypatch):
    loaded = types.ModuleType("difflib")
    loaded.__file__ = "/elsewhere/difflib.py"
    monkeypatch.setitem(sys.modules, "difflib", loaded)
    (tmp_path / "difflib.py").write_text("neighbour = True\n")
    assert run("import difflib\nassert difflib.neighbour").code == 0


def test_a_module_knows_its_package(process, tmp_path, monkeypatch):
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").touch()
    (tmp_path / "some_package" / "__main__.py").write_text("from . import other\n")
    (tmp_path / "some_package" / "other.py").write_text("value = 1\n")
    monkeypatch.chdir(tmp_path)
    assert script.run("some_package", (), is_module=True).code == 0
    main = sys.modules["__main__"]
    assert (main.__package__, main.__spec__.name) == ("some_package", "some_package.__main__")
    with pytest.raises(UsageError, match=r"`-m some_package.more`: no such module"):
        script.run("some_package.more", (), is_module=True)


def test_a_file_that_is_named_as_a_module_is_not_run_to_find_that_out(process, tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"`-m train.py`: no such module; a file needs none: leave out the -m."):
        script.run("train.py", (), is_module=True)
    assert not (tmp_path / "ran").exists()


def test_what_a_package_lacks_is_its_own_error(process, tmp_path, monkeypatch, capsys):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "__init__.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    assert script.run("lacking.train", (), is_module=True).code == 1
    assert "No module named 'nothing_of_that_name'" in capsys.readouterr().err


def test_before_exec_acts_once_per_call(monkeypatch):
    calls = []
    monkeypatch.setattr(script.os, "execv", lambda *words: calls.append(words))
    monkeypatch.setattr(script.os, "execve", lambda *words: calls.append(words))
    script.before_exec(lambda: calls.append("act"))
    script.os.execl("program", "program", "x")
    assert calls == ["act", ("program", ("program", "x"))]

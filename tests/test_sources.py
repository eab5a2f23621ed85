import functools
import os
import re
import sys
import textwrap
from pathlib import Path

import pytest
import source_models
import torch
from torch import nn

import gradscope
from gradscope.probes.names import bare_modules
from gradscope.sources import Place, is_users, place_of, places, project_root, with_calls, written

SOURCE = Path(source_models.__file__).read_text(encoding="utf-8").splitlines()
MARKED = {
    name.replace("·", " "): line
    for line, text in enumerate(SOURCE, 1)
    if (mark := re.search(r"#: (.*)", text))
    for name in mark[1].split()
}


def lines_of(model, **given):
    """The line of each module, as a reader of the trace is told."""
    modules = bare_modules(model)
    held = places({"sources": written(modules, **given)})
    return {name: found.line if (found := place_of(name, held)) else None for name in modules}


def user_file(tmp_path, monkeypatch, text, *, name="acme_net", encoding="utf-8"):
    """A module of the user's, imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_bytes(textwrap.dedent(text).encode(encoding))
    monkeypatch.delitem(sys.modules, name, raising=False)
    __import__(name)
    module = sys.modules[name]
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, name, module)
    return module


NET = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
"""

# ---------------------------------------------------------------- what a trace holds


def test_places_are_read_from_what_a_trace_holds():
    assert places({"sources": {"a/b.py": {"fc": 3, "": 1}, "c.py": {"x.y": 9}}}) == {
        "fc": Place(file="a/b.py", line=3),
        "": Place(file="a/b.py", line=1),
        "x.y": Place(file="c.py", line=9),
    }
    assert places({}) == places({"sources": None}) == places({"sources": {"a.py": [1]}}) == {}


def test_the_nearest_part_that_is_known_tells_the_place():
    held = places({"sources": {"m.py": {"layer1": 3, "": 1}}})
    assert place_of("layer1.relu#0", held).line == 3
    assert place_of("other", held).line == 1
    assert place_of("", held).line == 1
    assert place_of("other", {}) is None


def test_every_trace_holds_them_with_the_lines_of_the_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            x = torch.relu(self.fc(x))
            return activated(x).sum()

    def activated(x):
        return x.tanh()

    model = Net()
    with gradscope.attach(model) as scope:
        model(torch.ones(2, 4)).backward()
    held = places(scope.trace.meta)
    here = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "self.fc = nn.Linear(4, 4)" in here[held["fc"].line - 1]
    assert "torch.relu(" in here[held["relu#0"].line - 1]
    assert "x.tanh()" in here[held["tanh#0"].line - 1]
    assert "class Net" in here[held[""].line - 1]
    assert {place.file for place in held.values()} == {"tests/test_sources.py"}


# ---------------------------------------------------------------- of a model


def test_every_way_to_register_a_module():
    found = lines_of(source_models.Derived())
    block = {name: MARKED[name] for name in ("conv", "a", "b", "c", "d", "e")}
    conv_act = {name: MARKED[name] for name in ("0", "1")}
    expected = {name: line for name, line in MARKED.items() if name in found and name not in (*block, *conv_act)}
    expected |= {"": MARKED["."], "named": MARKED["named!"]}
    for name in ("body.2", "blocks.0", "blocks.1", "blocks.2", "deep.0", "deep.1"):
        expected |= {f"{name}.{child}": line for child, line in block.items()}
    expected |= {f"by_name.y.{child}": line for child, line in conv_act.items()}
    assert found == expected


def test_a_list_that_serves_two_times_tells_the_same_lines():
    found = lines_of(source_models.Net())  # `listed` shares its modules with `star`, which is first
    assert [name for name in found if name.startswith("listed")] == ["listed"]
    assert found["named.fc"] == MARKED["named.fc"]


def test_a_branch_that_was_not_taken_is_told_from_the_one_that_was():
    found = lines_of(source_models.Net(wide=False))
    assert SOURCE[found["either"] - 1].strip() == "self.either = nn.Tanh()"


@pytest.mark.parametrize("factory", [source_models.sequential, functools.partial(source_models.sequential)])
def test_a_factory_tells_the_place_of_a_model_whose_class_is_not_the_user_s(factory):
    found = lines_of(factory(), factory=factory)
    assert found == {"": MARKED["factory"], "0": MARKED["factory.0"], "1": MARKED["factory.1"]}
    assert set(lines_of(factory()).values()) == {None}


def test_a_class_of_the_user_s_tells_it_itself():
    assert lines_of(source_models.Block(), factory=source_models.sequential)[""] == MARKED["only.class"]


def test_wrappers_are_no_part_of_the_names():
    model = nn.DataParallel(source_models.Block())
    assert lines_of(model)["conv"] == MARKED["conv"]


def test_what_follows_from_another_entry_is_left_out():
    sources = written(bare_modules(source_models.Net()))
    (lines,) = sources.values()
    assert "one.0" not in lines
    assert lines["one"] == MARKED["one"]


# ---------------------------------------------------------------- whose file


def test_installed_packages_and_the_library_are_not_the_user_s():
    assert not is_users(torch.__file__)
    assert not is_users(os.__file__)
    assert not is_users("<string>")
    assert not is_users("native.so")
    assert not is_users("/tmp/ipykernel_1/2.py")
    assert is_users(__file__)
    assert written(bare_modules(nn.TransformerEncoderLayer(4, 2))) == {}


def test_files_are_relative_to_the_project_with_forward_slashes(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "src" / "acme"
    folder.mkdir(parents=True)
    module = user_file(folder, monkeypatch, NET)
    assert written(bare_modules(module.Net())) == {"src/acme/acme_net.py": {"": 4, "fc": 7}}


def test_a_file_outside_of_the_project_is_absolute(tmp_path, monkeypatch):
    module = user_file(tmp_path, monkeypatch, NET)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "project")
    (file,) = written(bare_modules(module.Net()))
    assert Path(file) == (tmp_path / "acme_net.py").resolve()


def test_the_root_is_the_repository_then_the_project_then_here(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (tmp_path / "a" / "pyproject.toml").touch()
    assert project_root() == str(tmp_path / "a")
    (tmp_path / ".git").mkdir()
    assert project_root() == str(tmp_path)


# ---------------------------------------------------------------- whatever the file may be


def test_without_a_source_nothing_is_known(tmp_path, monkeypatch):
    module = user_file(tmp_path, monkeypatch, NET)
    (tmp_path / "acme_net.py").unlink()
    assert written(bare_modules(module.Net())) == {}


@pytest.mark.parametrize("text", [b"class Net(:\n", b"\0\0", b"\xff\xfe\x00", b"# coding: no-such\n", b""])
def test_a_source_that_is_no_python_any_more(tmp_path, monkeypatch, text):
    module = user_file(tmp_path, monkeypatch, NET)
    (tmp_path / "acme_net.py").write_bytes(text)
    assert written(bare_modules(module.Net())) == {}


def test_other_encodings(tmp_path, monkeypatch):
    text = "# coding: latin-1\n# é\n" + textwrap.dedent(NET)
    module = user_file(tmp_path, monkeypatch, text, encoding="latin-1")
    assert written(bare_modules(module.Net())) == {"acme_net.py": {"": 6, "fc": 9}}


def test_code_that_was_executed_from_a_string_has_no_line(tmp_path, monkeypatch):
    module = user_file(tmp_path, monkeypatch, "x = 1")
    namespace = {"__name__": module.__name__}
    exec(textwrap.dedent(NET), namespace)
    assert written(bare_modules(namespace["Net"]())) == {}


def test_of_two_classes_of_a_name_it_is_the_one_that_was_made(tmp_path, monkeypatch):
    text = textwrap.dedent(NET)
    module = user_file(tmp_path, monkeypatch, f"{text}First = Net\n{text}")
    assert written(bare_modules(module.First())) == {"acme_net.py": {"": 4, "fc": 7}}
    assert written(bare_modules(module.Net())) == {"acme_net.py": {"": 12, "fc": 15}}


def test_decorators_are_looked_through(tmp_path, monkeypatch):
    text = """
        import functools
        from dataclasses import dataclass
        from torch import nn

        def logged(function):
            @functools.wraps(function)
            def inner(*args):
                return function(*args)
            return inner

        @dataclass(eq=False)
        class Net(nn.Module):
            width: int = 2

            @logged
            def __post_init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)

        @logged
        def build():
            return nn.Sequential(nn.Linear(2, 2))
    """
    module = user_file(tmp_path, monkeypatch, text)
    assert written(bare_modules(module.Net())) == {"acme_net.py": {"": 13, "fc": 19}}
    assert written(bare_modules(module.build()), factory=module.build) == {"acme_net.py": {"": 22, "0": 23}}


def test_a_warning_of_the_user_s_file_is_not_repeated(tmp_path, monkeypatch):
    module = user_file(tmp_path, monkeypatch, NET)
    path = tmp_path / "acme_net.py"
    path.write_text(path.read_text(encoding="utf-8") + "pattern = '\\d'\n", encoding="utf-8")
    assert written(bare_modules(module.Net())) == {"acme_net.py": {"": 4, "fc": 7}}


def test_nothing_is_raised_whatever_a_model_does(tmp_path, monkeypatch):
    class Hostile(type):
        @property
        def __mro__(cls):
            raise RuntimeError("no")

    strange = Hostile("Strange", (), {})()
    model = source_models.Block()
    (lines,) = written({"": model, "conv": strange, "a": model.a}).values()
    assert lines == {"": MARKED["only.class"], "a": MARKED["a"]}
    assert written({"": object()}) == {}
    assert written(bare_modules(nn.Sequential(nn.Linear(1, 1))), factory=print) == {}


def test_calls_in_installed_packages_are_left_out():
    own = (__file__, 3)
    assert with_calls({"a.py": {"fc": 1}}, {"relu#0": own, "tanh#0": (torch.__file__, 5)}) == {
        "a.py": {"fc": 1},
        "tests/test_sources.py": {"relu#0": 3},
    }
    assert with_calls(None, {}) == {}


def test_a_folder_that_is_gone_stops_no_training(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert with_calls({"a.py": {"fc": 1}}, {"relu#0": (__file__, 3)}) == {"a.py": {"fc": 1}}
    assert written(bare_modules(source_models.Block())) == {}

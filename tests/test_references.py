import subprocess
import sys

import pytest

from gradscope.errors import UsageError
from gradscope.references import resolve
from gradscope.tracebacks import place_of, stage_of


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's folder with the package `shop`, importable as the command line makes it."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(
        "def build():\n    return 1\nclass Zoo:\n    @staticmethod\n    def small():\n        return 2\n"
    )
    (tmp_path / "shop" / "broken.py").write_text("x = 1\n1 / 0\n")
    (tmp_path / "shop" / "lacking.py").write_text("import shop.nothing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]


def test_names_are_found_at_any_depth(package):
    assert resolve("shop.models:build", written="")() == 1
    assert resolve("shop.models:Zoo.small", written="")() == 2


WRONG = {
    "shop.models:buld": "shop.models has no 'buld'; did you mean 'build'?",
    "shop.models:Zoo.smal": "shop.models:Zoo has no 'smal'; did you mean 'small'?",
    "shop.modls:build": "there is no module 'shop.modls'; did you mean 'shop.models'?",
    "shp.models:build": "there is no module 'shp' (looked for from {here!r}); did you mean 'shop'?",
    "shop.models.Zoo:small": "there is no module 'shop.models.Zoo'; shop.models is a module, no package: write"
    " 'shop.models:Zoo'.",
    "shop:models": "shop.models is a module; name what you want in it: 'shop.models:…'.",
    "shop.models:json": "shop.models has no 'json'; known are Zoo, build.",
    "shop.models.build": "'shop.models.build' must be a module and a name in it; write 'shop.models:build'.",
    "shop/models.py:build": "'shop/models.py:build' must be a module and a name in it; write 'shop.models:build'.",
    "shop.models:build()": "'shop.models:build()' must be a module and a name in it; write 'shop.models:build'.",
    "build": "'build' must be a module and a name in it, such as 'acme.models:build'.",
    "": "'' must be a module and a name in it, such as 'acme.models:build'.",
    ".models:build": "'.models:build' must be a module and a name in it, such as 'acme.models:build'.",
    "xml.dom:nothing_near": "xml.dom has no 'nothing_near'.",
    "inside:build": "there is no module 'inside' (looked for from {here!r}); it lies in src: `pip install -e .`, or set"
    " PYTHONPATH=src.",
}


@pytest.mark.parametrize(
    ("folder", "standing", "said"),
    [
        ("pkg_b", ".", "it lies in pkg_b: `pip install -e pkg_b`, or set PYTHONPATH=pkg_b."),
        ("pkg_b/src", ".", "it lies in pkg_b/src: `pip install -e pkg_b`, or set PYTHONPATH=pkg_b/src."),
        ("src", "tests", "it lies in ../src: `pip install -e ..`, or set PYTHONPATH=../src."),
        ("build", "tests", "(looked for from {here!r})."),
        (".tox", "tests", "(looked for from {here!r})."),
    ],
)
def test_a_package_that_lies_elsewhere_in_the_project_is_found(package, monkeypatch, folder, standing, said):
    (package / folder / "shap").mkdir(parents=True)
    (package / "tests").mkdir()
    here = (package / standing).resolve()
    monkeypatch.chdir(here)
    with pytest.raises(UsageError) as caught:
        resolve("shap.net:build", written="--model")
    assert str(caught.value).endswith(said.format(here=str(here)))


@pytest.mark.parametrize("reference", WRONG)
def test_a_wrong_reference_is_one_sentence_with_a_way_out(package, reference):
    (package / "src" / "inside").mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        resolve(reference, written=f"--model {reference}")
    assert str(caught.value) == f"--model {reference}: {WRONG[reference].format(here=str(package))}"


def test_what_the_user_s_module_raises_passes_through(package):
    with pytest.raises(ZeroDivisionError) as caught:
        resolve("shop.broken:build", written="")
    assert stage_of(caught.value) == "the import of shop.broken"
    assert place_of(caught.value) == "shop/broken.py:2"
    with pytest.raises(ModuleNotFoundError) as caught:  # the module is there, and lacks another
        resolve("shop.lacking:build", written="")
    assert stage_of(caught.value) == "the import of shop.lacking"
    assert place_of(caught.value) == "shop/lacking.py:1"


def test_nothing_loads_torch():
    code = (
        "import sys; from gradscope.references import resolve; resolve('os.path:join', written=''); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "rich"} & set(loaded)

import sys

import pytest
from script_runs import Zygote


def _forget_acme():
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


@pytest.fixture
def unknown_acme():
    """The user's package `acme`, which each of these tests writes anew, has been imported by none before."""
    _forget_acme()
    yield
    _forget_acme()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    process = Zygote(
        tmp_path_factory.mktemp("zygote"),
        "torch",
        "torch._dynamo",
        "torch._functorch.aot_autograd",
        "h5py",
        "rich.console",
    )
    yield process
    process.close()


@pytest.fixture(scope="module")
def frameworks(tmp_path_factory):
    names = ("lightning", "transformers.trainer", "accelerate")
    for name in names:
        pytest.importorskip(name.partition(".")[0])
    process = Zygote(tmp_path_factory.mktemp("frameworks"), *names, "torch._dynamo")
    yield process
    process.close()

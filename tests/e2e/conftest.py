import pytest
from script_runs import Zygote


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

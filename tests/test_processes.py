from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn import functional as F

import gradscope
from gradscope import processes
from gradscope.errors import TraceError


@pytest.mark.parametrize(
    ("rank", "world_size", "place"),
    [("1", "4", (1, 4)), ("0", "1", None), (None, "2", None), ("0", None, None), ("x", "2", None), ("", "", None)],
)
def test_before_the_processes_know_each_other_the_launcher_says_which_this_is(monkeypatch, rank, world_size, place):
    for name, value in (("RANK", rank), ("WORLD_SIZE", world_size)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert processes.place() == place


@pytest.mark.parametrize(
    ("said", "written"),
    [("run.h5", "run.rank3.h5"), ("a.b/run.1.hdf5", "a.b/run.1.rank3.hdf5"), ("run", "run.rank3")],
)
def test_each_rank_has_a_file_of_its_own(said, written):
    assert processes.file_of(said, 3) == Path(written)


class Part(torch.Tensor):
    """Like a DTensor: what it is said to be is not what is here."""


def test_what_is_here_of_a_tensor_is_itself_or_its_shard():
    tensor, parameter, whole = torch.ones(4), nn.Parameter(torch.ones(4)), torch.ones(4).as_subclass(Part)
    assert processes.local(tensor) is tensor
    assert processes.local(parameter) is parameter
    assert processes.local(whole) is whole
    assert not processes.are_sharded([tensor, parameter, whole])
    whole._local_tensor = tensor[:2]
    assert processes.local(whole).tolist() == [1, 1]
    assert processes.are_sharded([parameter, whole])


@pytest.fixture
def rank_1_of_2(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


def trained(**given):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer=optimizer, **given) as scope:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(5, 3)).sum().backward()
            optimizer.step()
    return scope.trace


@pytest.mark.usefixtures("rank_1_of_2")
def test_a_rank_streams_to_its_own_file_and_keeps_which_units_were_silent(tmp_path):
    trained(trace=tmp_path / "run.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["run.rank1.h5"]
    trace = gradscope.read_trace(tmp_path / "run.rank1.h5")
    assert trace.meta["distributed"] == {"rank": 1, "world_size": 2, "parameters": "replicated"}
    assert [str(trace.sites[i]) for i in trace.units.site] == ["1:output"] * 2
    assert trace.units.units.tolist() == [4, 4]


@pytest.mark.usefixtures("rank_1_of_2")
def test_without_a_file_a_rank_records_itself_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trained().meta["distributed"]["rank"] == 1
    assert not list(tmp_path.iterdir())


def test_one_process_alone_has_no_rank(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    trace = trained()
    assert "distributed" not in trace.meta
    assert not len(trace.units.step)
    with pytest.raises(TraceError, match=r"the trace is of one process; `gradscope merge` keeps what each rank has"):
        trace.by_rank("0", "output", "rms")


class Attends(nn.Module):
    """All that is told of activations and attention, of whatever kind of tensor."""

    def __init__(self):
        super().__init__()
        self.relu, self.tanh = nn.ReLU(), nn.Tanh()

    def forward(self, x):
        y = torch.sigmoid(F.relu(self.tanh(self.relu(x)))).unflatten(-1, (2, 4)).transpose(0, 1)
        F.scaled_dot_product_attention(y, y, y)  # has no backward as shards
        return torch.softmax(y @ y.transpose(1, 2), -1)


def test_what_modules_and_functions_return_may_be_shards():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        traces = []
        for shard in (False, True):
            torch.manual_seed(0)
            model, weight = Attends(), nn.Parameter(torch.randn(4, 8))
            model.weight = weight
            with gradscope.attach(model) as scope:
                for _ in range(3):
                    x = 2 * weight
                    model(DTensor.from_local(x, mesh, [Shard(1)]) if shard else x).sum().backward()
                    scope.step()
            traces.append(scope.trace)
    finally:
        distributed.destroy_process_group()
    whole, shards = traces
    assert shards.events == ()
    for module in ("relu", "tanh", "relu#0", "sigmoid#0", "softmax#0"):
        for stat in ("rms", "dead_fraction", "saturated_fraction"):
            ours, theirs = (t.series(module, "output", stat, name="").tolist() for t in (shards, whole))
            assert ours == pytest.approx(theirs, nan_ok=True), (module, stat)

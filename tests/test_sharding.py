import pytest
import torch
from torch import nn

from gradscope.probes.base import Target
from gradscope.recorder import StepRecorder
from gradscope.sharding import note_sharding
from gradscope.target import sizes


def noted(model, parameters=None, **meta):
    parameters = dict(model.named_parameters()) if parameters is None else parameters
    recorder = StepRecorder({}, lambda: None)
    meta = {"distributed": {"rank": 0, "world_size": 2, "parameters": "replicated"}, "shapes": {"w": [4]}, **meta}
    note_sharding(Target(model=model, modules={}, parameters=parameters), recorder, meta)
    return recorder, meta


class FullyShardedDataParallel(nn.Linear):
    pass


class FSDPModule:
    pass


class FSDPLinear(FSDPModule, nn.Linear):
    pass


class Part(torch.Tensor):
    """Like a DTensor."""


class Shard:
    def is_shard(self):
        return True


def part(*placements):
    whole = torch.ones(4).as_subclass(Part)
    whole._local_tensor, whole.placements = torch.ones(2), placements
    return {"weight": whole}


def test_whole_parameters_are_replicated():
    recorder, meta = noted(nn.Linear(2, 2))
    assert not recorder.sharded
    assert meta["distributed"]["parameters"] == "replicated"


def test_a_single_process_may_be_sharded_but_has_nothing_to_merge():
    recorder, meta = noted(FSDPLinear(2, 2), part(Shard(), Shard()), distributed=None)
    assert recorder.sharded
    assert (meta["distributed"], recorder.events) == (None, [])


@pytest.mark.parametrize("parameters", [None, part(Shard())], ids=["gathered", "sharded"])
def test_fsdp2_is_recognised_also_while_its_parameters_are_whole(parameters):
    recorder, meta = noted(FSDPLinear(2, 2), parameters)
    assert recorder.sharded
    assert meta["distributed"]["parameters"] == "sharded"
    assert meta["shapes"] == {"w": [4]}
    assert not recorder.events


def test_of_flat_parameters_no_shape_is_known():
    model = nn.Sequential(FullyShardedDataParallel(2, 2))
    recorder, _ = noted(model)
    assert recorder.sharded
    target = Target(model=model, modules={}, parameters=dict(model.named_parameters()))
    assert (sizes(target)["shapes"], sizes(target)["parameters"]) == ({}, 6)
    (event,) = recorder.events
    assert event.message.startswith("FullyShardedDataParallel hides the raw gradients of parameters")


@pytest.mark.parametrize("model", [nn.Linear(2, 2), FSDPLinear(2, 2)], ids=["alone", "with FSDP2"])
def test_tensor_parallelism_is_told(model):
    recorder, _ = noted(model, part(Shard(), Shard()))
    (event,) = recorder.events
    assert event.kind == "approximate"
    assert event.message.startswith("parameters are sharded by more than the data")

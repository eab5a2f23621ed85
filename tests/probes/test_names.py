"""Leaves, and names without the words of wrappers."""

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

from gradscope.probes.names import bare_modules, bare_parameters, class_name, leaves, unwrapped


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in leaves(model)]


def test_leaves_are_what_computes_by_itself():
    assert names(nn.Linear(1, 1)) == [""]
    assert names(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))) == ["0", "1.0"]


def test_attention_is_a_leaf_for_its_projection_never_runs():
    layer = nn.TransformerEncoderLayer(4, 2)
    assert "self_attn" in names(layer)
    assert "self_attn.out_proj" not in names(layer)


def test_a_parametrized_layer_is_a_leaf_and_its_parametrization_is_none():
    assert names(nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))) == ["0"]


def test_a_parametrization_does_not_change_what_a_class_is_called():
    assert class_name(parametrizations.weight_norm(nn.Linear(2, 2))) == "Linear"


def test_a_shared_module_has_its_first_name():
    shared = nn.ReLU()
    assert names(nn.Sequential(shared, nn.Linear(1, 1), shared)) == ["0", "1"]


def test_lists_of_parameters_do_not_run():
    model = nn.Module()
    model.weights = nn.ParameterList([nn.Parameter(torch.zeros(1))])
    model.empty = nn.ModuleList()
    model.layer = nn.Identity()
    assert names(model) == ["layer"]


class Net(nn.Module):
    """Has a child whose name is that of DistributedDataParallel's."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(1, 1)
        self.tail = nn.Sequential(nn.Linear(1, 1))
        self.shared = self.module


def test_without_wrappers_the_names_are_torch_s_own():
    net = Net()
    assert bare_modules(net) == dict(net.named_modules())
    assert list(bare_parameters(net).items()) == list(net.named_parameters())


def test_the_words_of_wrappers_are_left_out():
    plain, net = Net(), Net()
    net.tail[0] = checkpoint_wrapper(torch.compile(net.tail[0], backend="eager"))
    wrapped = nn.DataParallel(torch.compile(net, backend="eager"))
    assert list(bare_modules(wrapped)) == list(dict(plain.named_modules()))
    assert list(bare_parameters(wrapped)) == list(dict(plain.named_parameters()))
    assert unwrapped(wrapped) is net
    assert bare_modules(wrapped)["tail.0"] is unwrapped(net.tail[0])
    assert names(wrapped) == ["module", "tail.0"]


def test_a_model_that_hides_its_modules_is_seen_all_the_same():
    class Hiding(Net):
        def named_modules(self, *args, **kwargs):
            raise RuntimeError

        def __eq__(self, other):
            raise RuntimeError

    assert names(Hiding()) == ["module", "tail.0"]

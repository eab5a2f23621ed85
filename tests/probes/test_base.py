"""Leaves, names, and hooks that stay behind."""

import copy
import pickle

import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradscope.probes.base import Hook, leaves, owner_and_name


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


def test_a_shared_module_has_its_first_name():
    shared = nn.ReLU()
    assert names(nn.Sequential(shared, nn.Linear(1, 1), shared)) == ["0", "1"]


def test_lists_of_parameters_do_not_run():
    model = nn.Module()
    model.weights = nn.ParameterList([nn.Parameter(torch.zeros(1))])
    model.empty = nn.ModuleList()
    model.layer = nn.Identity()
    assert names(model) == ["layer"]


def test_a_parameter_has_an_owner_and_a_name():
    assert owner_and_name("a.b.weight") == ("a.b", "weight")
    assert owner_and_name("weight") == ("", "weight")


def test_a_copied_or_pickled_hook_does_nothing_and_knows_no_gradscope():
    hook = Hook("some", object())  # type: ignore[arg-type]
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert "gradscope" not in type(twin).__module__
        assert twin(nn.Identity(), (1,), 2) is None
    assert b"gradscope" not in pickle.dumps(hook)

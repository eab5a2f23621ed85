"""Names of parameters, and hooks that stay behind."""

import copy
import pickle

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gradscope.probes.base import Hook, aside, owner_and_name


def test_a_parameter_has_an_owner_and_a_name():
    assert owner_and_name("a.b.weight") == ("a.b", "weight")
    assert owner_and_name("weight") == ("", "weight")


def test_what_a_parametrization_holds_belongs_to_the_layer_that_runs():
    assert owner_and_name("a.fc.parametrizations.weight.original0") == ("a.fc", "parametrizations.weight.original0")
    assert owner_and_name("parametrizations.weight.original") == ("", "parametrizations.weight.original")


def test_a_copied_or_pickled_hook_does_nothing_and_knows_no_gradscope():
    hook = Hook("some", object())  # type: ignore[arg-type]
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert "gradscope" not in type(twin).__module__
        assert twin(nn.Identity(), (1,), 2) is None
    assert b"gradscope" not in pickle.dumps(hook)


def test_modes_of_the_training_do_not_see_what_is_done_aside() -> None:
    x, made = torch.ones(3, 3), []
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        aside(lambda: made.append(x @ torch.ones(3, 3)))
        x @ x
    (product,) = made
    assert product.device.type == "cpu"
    assert counter.get_total_flops() == 2 * 3**3

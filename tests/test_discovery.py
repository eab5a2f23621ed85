import types

import torch
from torch import nn

from gradscope.discovery import Living, leaves_behind, name_of, narrowed, parameters_of, without_shape


def net():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))


def test_the_root_is_the_outermost_module():
    inner = net()
    outer = nn.ModuleDict({"model": nn.Sequential(inner), "other": nn.Linear(1, 1)})
    optimizer = torch.optim.SGD(inner[0].parameters())
    assert Living().roots_of(parameters_of(optimizer)) == [outer]


def test_two_models_of_one_optimizer_are_two_roots():
    first, second, bystander = net(), net(), net()
    roots = Living().roots_of([*first.parameters(), *second.parameters()])
    assert {id(root) for root in roots} == {id(first), id(second)}
    assert id(bystander) not in {id(root) for root in roots}


def test_tensors_of_no_module_have_no_root():
    assert Living().roots_of([torch.zeros(2, requires_grad=True)]) == []


def test_modules_that_are_half_built_are_passed_over():
    half = nn.Module.__new__(nn.Module)
    model = net()
    assert Living().roots_of(model.parameters()) == [model]
    assert vars(half) == {}


def test_a_scaler_counts_if_it_is_on():
    off = torch.amp.GradScaler("cpu", enabled=False)
    on = torch.amp.GradScaler("cpu")
    found = Living().scalers
    assert any(one is on for one in found)
    assert not any(one is off for one in found)


class Average(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.online, self.average = model, net()


def test_what_is_only_around_the_model_is_left_out():
    model = net()
    trained = {id(p) for p in model.parameters()}
    assert narrowed(Average(model), model, trained) is model
    assert narrowed(nn.DataParallel(model), None, trained) is model


def test_what_trains_more_than_the_part_that_is_called_stays():
    whole = Average(net())
    everything = {id(p) for p in whole.parameters()}
    assert narrowed(whole, whole.online, everything) is whole
    assert narrowed(whole, whole, {id(p) for p in whole.online.parameters()}) is whole


def test_a_lightning_module_stays():
    class LightningModule(Average):
        pass

    whole = LightningModule(net())
    assert narrowed(whole, whole.online, {id(p) for p in whole.online.parameters()}) is whole


def test_leaves_behind_a_loss():
    model, x = net(), torch.ones(1, 2, requires_grad=True)
    found = leaves_behind([model(x).sum(), None])
    assert {id(one) for one in found} == {id(x), *(id(p) for p in model.parameters())}
    assert leaves_behind([torch.zeros(1)]) == []


def test_a_lazy_module_has_no_shape_until_it_is_called():
    lazy = nn.LazyLinear(2)
    assert without_shape(lazy.parameters())
    lazy(torch.ones(1, 3))
    assert not without_shape(lazy.parameters())


def test_a_root_is_called_as_the_script_calls_it():
    main = types.ModuleType("__main__")
    main.generator = net()
    assert name_of(main.generator, main) == "generator"
    main.wrapped = nn.DataParallel(net())
    assert name_of(main.wrapped.module, main) == "wrapped"
    critic = net()
    assert name_of(critic, main) == "critic"

    class Trainer:
        pass

    trainer = Trainer()
    trainer.actor = net()
    assert name_of(trainer.actor, main) == "actor"

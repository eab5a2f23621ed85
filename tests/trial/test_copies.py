import pytest
import torch
from torch import nn

from gradscope.trial.copies import copied


def step(optimizer, model):
    def closure():
        optimizer.zero_grad()
        loss = ((model(torch.ones(4, 2)) - 1) ** 2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.LBFGS, {"max_iter": 1, "lr": 0.1})],
)
def test_a_copy_goes_on_as_the_original_would(kind, settings):
    model = nn.Linear(2, 1)
    optimizer = kind(model.parameters(), **settings)
    for _ in range(3):
        step(optimizer, model)
    both = copied(model, print, [optimizer])
    twin, (its,) = both.model, both.optimizers
    assert its.param_groups[0]["params"][0] is twin.weight
    before = model.weight.detach().clone()
    step(its, twin)
    assert model.weight.equal(before)
    step(optimizer, model)
    assert twin.weight.equal(model.weight)
    assert not model.weight.equal(before)


def test_a_scheduled_optimizer_can_be_copied():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # puts a step of its own there
    both = copied(model, print, [optimizer])
    twin, (its,) = both.model, both.optimizers
    twin.weight.grad = torch.ones(1, 2)
    before = model.weight.detach().clone()
    its.step()
    assert model.weight.equal(before)
    assert not twin.weight.equal(before)


class Keeping(nn.Module):
    """Keeps what it computes, as many do for a look at it later."""

    def __init__(self):
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
        self.seen, self.last, self.by_name = [], None, {}

    def forward(self, x):
        self.last = self.fc(x)
        self.seen.append(self.last)
        self.by_name["fc"] = self.last
        return self.last


def test_a_model_that_keeps_what_it_computes_can_be_copied():
    model = Keeping()
    model(torch.ones(1, 2))
    twin = copied(model, print, []).model
    assert twin.last.equal(model.last)
    assert twin.last is twin.seen[0] is twin.by_name["fc"]
    assert twin.last is not model.last
    assert model.last.grad_fn is not None
    assert twin.fc.weight.equal(model.fc.weight)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:.*weight_norm.*is deprecated")
def test_what_has_no_shape_yet_and_old_weight_norm_can_be_copied():
    model = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(3), nn.utils.weight_norm(nn.Linear(3, 2)))
    twin = copied(model, print, []).model
    assert twin(torch.ones(2, 4)).shape == (2, 2)
    assert model[0].has_uninitialized_params()


def test_a_loss_that_is_a_module_shares_what_it_shared():
    class OfModel(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

    model = nn.Linear(2, 2)
    both = copied(model, OfModel(model), [])
    assert both.loss.model is both.model
    assert copied(model, print, []).loss is print


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_s_copy_can_be_trained():
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1).requires_grad_(False)))
    twin = copied(model, print, []).model
    assert [(p.is_leaf, p.requires_grad) for p in twin.parameters()] == [(True, True)] * 2 + [(True, False)] * 2
    twin(torch.ones(1, 2)).sum().backward()
    assert all(p.grad is None for p in model.parameters())

import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.trial.optimizers import needs_closure, optimizers_of, to_parameters


def net():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].bias.requires_grad_(False)
    return model


def made(given, model=None, lr=None):
    return optimizers_of(given, model or net(), lr, "`optimizer=that`")


def moved(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def test_by_default_adam_moves_what_can_be_trained():
    model = net()
    (optimizer,) = made(None, model)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert all(
        a is b for a, b in zip(moved(optimizer), [p for p in model.parameters() if p.requires_grad], strict=True)
    )
    assert len(moved(optimizer)) == 3


@pytest.mark.parametrize(
    "given",
    [
        None,
        torch.optim.SGD,
        lambda p, lr: torch.optim.AdamW(p, lr),
        lambda model, lr: torch.optim.AdamW(model.parameters(), lr),
    ],
)
def test_a_learning_rate_is_handed_on(given):
    assert made(given, lr=0.25)[0].param_groups[0]["lr"] == 0.25


WRONG = {
    "a word": ("adam", "is a str; give a class such as torch.optim.AdamW, or a function of the parameters."),
    "another thing": (lambda p: 3, "must give a torch.optim.Optimizer or a list of them, it gives an int."),
    "nothing": (lambda p: [], "must give a torch.optim.Optimizer or a list of them, it gives a list."),
    "None": (lambda p: None, "must give a torch.optim.Optimizer or a list of them, it gives None."),
    "None among others": (
        lambda p: [torch.optim.SGD(p), None],
        "must give a torch.optim.Optimizer or a list of them, it gives a list with None.",
    ),
    "lightning's": (
        lambda model: ([torch.optim.SGD(model.parameters())], []),
        "must give a torch.optim.Optimizer or a list of them, it gives a tuple with a list.",
    ),
    "another model's": (
        lambda p: torch.optim.SGD(net().parameters()),
        "gives a SGD that moves none of the parameters of Sequential; was it made for another model",
    ),
    "no argument": (lambda: None, "takes (); it is called with the parameters."),
    "two arguments": (lambda model, config: None, "takes (model, config); it is called with the model."),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_optimizer_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        made(given)
    assert str(caught.value).startswith(f"`optimizer=that` {message}")


def test_a_function_without_lr_is_not_given_one():
    with pytest.raises(UsageError) as caught:
        made(lambda parameters: torch.optim.SGD(parameters), lr=0.1)
    assert str(caught.value) == (
        "`optimizer=that` takes (parameters) and no lr; leave lr out, or give the function an lr."
    )


def test_state_follows_the_parameters():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    model.double()
    to_parameters(optimizer)
    assert optimizer.state[model.weight]["exp_avg"].dtype is torch.float64


def test_which_need_a_closure():
    model = net()
    assert needs_closure(torch.optim.LBFGS(model.parameters()))
    assert not needs_closure(torch.optim.Adam(model.parameters()))

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope.errors import UsageError
from gradscope.trial.losses import loss_of, takes_model

X, Y = torch.ones(3, 2), torch.zeros(3, dtype=torch.long)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x, scale=1.0):
        return self.fc(x) * scale


def made(given):
    return loss_of(given, "`loss=that`", "`batch=it`")


def by_name(model, batch):
    return model(batch[0]).mean()


def by_annotation(net: nn.Module, batch):
    return net(batch[0]).mean()


class AsModule(nn.Module):
    def forward(self, model, batch):
        return model(batch[0]).mean()


def of_outputs(outputs, targets):
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("given", [by_name, by_annotation, AsModule(), AsModule])
def test_a_loss_of_the_model(given):
    model = Two()
    loss = made(given)
    assert loss.of_model
    assert loss.of(model, (X, Y), 0).equal(model(X).mean())


@pytest.mark.parametrize("given", [of_outputs, F.cross_entropy, nn.CrossEntropyLoss(), nn.CrossEntropyLoss])
def test_a_loss_of_outputs_and_targets(given):
    model = Two()
    loss = made(given)
    assert not loss.of_model
    assert loss.of(model, (X, Y), 0).equal(F.cross_entropy(model(X), Y))


def test_a_loss_of_one_element_is_a_number():
    loss = made(lambda outputs, targets: outputs.mean().reshape(1, 1))
    assert loss.of(Two(), (X, Y), 0).shape == ()


@pytest.mark.parametrize("inputs", [X, (X,), [X, 1.0], {"x": X, "scale": 1.0}], ids=["one", "tuple", "list", "mapping"])
def test_inputs_of_every_form(inputs):
    model = Two()
    assert made(of_outputs).of(model, (inputs, Y), 0).equal(F.cross_entropy(model(X), Y))


NOT_CALLABLE = {
    "a word": ("mse", "is a str; give a function of (outputs, targets), such as torch.nn.functional.cross_entropy"),
    "one argument": (lambda outputs: 0, "takes (outputs); it is called with (outputs, targets), or (model, batch)."),
    "three": (lambda a, b, c: 0, "takes (a, b, c); it is called with (outputs, targets), or (model, batch)."),
    "a class of another kind": (nn.Upsample, "takes (input); it is called with (outputs, targets), or (model, batch)."),
    "a class that needs some": (
        type("Weighted", (nn.Module,), {"__init__": lambda self, weight: None}),
        "needs arguments, (weight); give an instance: `Weighted(…)`.",
    ),
}


@pytest.mark.parametrize(("given", "message"), NOT_CALLABLE.values(), ids=NOT_CALLABLE)
def test_what_is_no_loss_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        made(given)
    assert str(caught.value).startswith(f"`loss=that` {message}")


NO_NUMBER = {
    "a number": (lambda o, t: o.mean().item(), "must return a tensor, it returns a float; `.item()` and `float()` cut"),
    "nothing": (lambda o, t: None, "must return a tensor, it returns None."),
    "several": (lambda o, t: (o.mean(), 1), "must return a tensor, it returns a tuple."),
    "a row for each": (
        lambda o, t: F.cross_entropy(o, t, reduction="none"),
        "must return a single number, it returns a tensor of shape (3,); take its mean or sum.",
    ),
    "without gradient": (
        lambda o, t: o.detach().mean(),
        "has no gradient in step 7: between the parameters of Two and the loss something cuts it off",
    ),
}


@pytest.mark.parametrize(("given", "message"), NO_NUMBER.values(), ids=NO_NUMBER)
def test_what_is_no_number_with_a_gradient_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        made(given).of(Two(), (X, Y), 7)
    assert str(caught.value).startswith(f"`loss=that` {message}")


@pytest.mark.parametrize(
    ("inputs", "given"),
    [((X, X, X), "3 inputs"), ({"y": X}, "(y)"), ((), "0 inputs")],
)
def test_inputs_that_the_model_does_not_take(inputs, given):
    with pytest.raises(UsageError) as caught:
        made(of_outputs).of(Two(), (inputs, Y), 0)
    assert str(caught.value) == (
        f"`batch=it` gives {given}, but Two.forward takes (x, scale=…); a tensor is one input, a tuple several, a"
        " mapping named ones."
    )


def test_a_type_error_of_the_user_s_passes_through():
    def wrong(outputs, targets):
        return F.cross_entropy(outputs)

    with pytest.raises(TypeError) as caught:
        made(wrong).of(Two(), (X, Y), 2)
    assert caught.value.__notes__ == ["gradscope: in the loss of step 2"]
    with pytest.raises(RuntimeError) as caught:
        made(of_outputs).of(Two(), (torch.ones(3, 5), Y), 2)
    assert caught.value.__notes__ == ["gradscope: in the forward pass of step 2"]


def test_a_loss_that_takes_the_outputs_for_the_model_is_told_so():
    loss = made(lambda net, batch: net(batch[0]).mean())
    with pytest.raises(TypeError) as caught:
        loss.of(Two(), (X, Y), 0)
    assert caught.value.__notes__ == [
        "gradscope: the loss was called with (outputs, targets); of a loss of (model, batch) the first parameter is"
        " called `model`, or annotated as a module.",
        "gradscope: in the loss of step 0",
    ]


def test_the_model_is_known_by_its_name_or_its_kind():
    assert takes_model(by_name)
    assert takes_model(by_annotation)  # here a string: of `from __future__ import annotations`
    assert takes_model(eval("lambda model, x: x"))
    assert not takes_model(of_outputs)
    assert not takes_model(lambda: 0)

    def of_class(net, batch): ...

    of_class.__annotations__["net"] = nn.Sequential
    assert takes_model(of_class)

"""The loss of a trial: a function of (outputs, targets), a module or its class, or a function of (model, batch)."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.errors import UsageError
from gradscope.tracebacks import during
from gradscope.trial.signatures import a, accepts, called, first_parameter, takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How a number comes out of a model and a batch.

    Attributes:
        function: Of outputs and targets, or of the model and the batch.
        of_model: Which of the two.
        quoted: How the user wrote it.
        batch: How the user wrote the batch.
    """

    function: Callable[[object, object], object]
    of_model: bool
    quoted: str
    batch: str

    def of(self, model: nn.Module, batch: object, step: int) -> Tensor:
        """The loss of `model` for `batch`, a single number with a gradient.

        Raises:
            UsageError: It is something else.
        """
        __tracebackhide__ = True
        first, second = (
            (model, batch) if self.of_model else self._outputs(model, batch, f"the forward pass of step {step}")
        )
        with during(f"the loss of step {step}"):
            value = self._called(first, second)
        return self._required(value, model, step)

    def _called(self, first: object, second: object) -> object:
        __tracebackhide__ = True
        try:
            return self.function(first, second)
        except TypeError as error:
            if not self.of_model and f"{type(first).__name__!r} object is not callable" in str(error):
                error.add_note(
                    "gradscope: the loss was called with (outputs, targets); of a loss of (model, batch) the first"
                    " parameter is called `model`, or annotated as a module."
                )
            raise

    def warm_up(self, model: nn.Module, batch: object) -> None:
        """Lets lazy modules find out their sizes."""
        __tracebackhide__ = True
        with torch.no_grad():
            if not self.of_model:
                self._outputs(model, batch, "the first forward pass, for lazy modules")
                return
            with during("the loss, for lazy modules"):
                self.function(model, batch)

    def _outputs(self, model: nn.Module, batch: object, stage: str) -> tuple[object, object]:
        __tracebackhide__ = True
        assert isinstance(batch, tuple | list)
        inputs, targets = batch
        arguments, named = _arguments(inputs)
        if not accepts(model.forward, *arguments, **named):
            given = f"{len(arguments)} input{'s' * (len(arguments) != 1)}" if not named else f"({', '.join(named)})"
            raise UsageError(
                f"{self.batch} gives {given}, but {called(type(model))}.forward takes {takes(model.forward)}; a tensor"
                " is one input, a tuple several, a mapping named ones."
            )
        with during(stage):
            return model(*arguments, **named), targets

    def _required(self, value: object, model: nn.Module, step: int) -> Tensor:
        if not isinstance(value, Tensor):
            why = "; `.item()` and `float()` cut the gradient off" if isinstance(value, float) else ""
            raise UsageError(f"{self.quoted} must return a tensor, it returns {a(value)}{why}.")
        if value.numel() != 1:
            raise UsageError(
                f"{self.quoted} must return a single number, it returns a tensor of shape {tuple(value.shape)}; take"
                " its mean or sum."
            )
        if value.is_complex():
            raise UsageError(f"{self.quoted} must return a real number, it returns {value.dtype}; take its `.abs()`.")
        if not value.requires_grad:
            raise UsageError(
                f"{self.quoted} has no gradient in step {step}: between the parameters of {called(type(model))} and the"
                " loss something cuts it off, such as `.detach()`, `torch.no_grad()`, `argmax` or numpy."
            )
        return value.reshape(())


def loss_of(given: object, quoted: str, batch: str) -> Loss:
    """What the user gave for the loss, ready to be called.

    Raises:
        UsageError: It cannot be called with two arguments.
    """
    if isinstance(given, type) and issubclass(given, nn.Module):
        if not accepts(given):
            raise UsageError(f"{quoted} needs arguments, {takes(given)}; give an instance: `{called(given)}(…)`.")
        with during(f"the making of {called(given)}"):
            given = given()
    if not callable(given):
        raise UsageError(
            f"{quoted} is {a(given)}; give a function of (outputs, targets), such as torch.nn.functional.cross_entropy,"
            " or of (model, batch)."
        )
    function = given.forward if isinstance(given, nn.Module) else given
    if not accepts(function, None, None):
        raise UsageError(f"{quoted} takes {takes(function)}; it is called with (outputs, targets), or (model, batch).")
    return Loss(function=given, of_model=takes_model(function), quoted=quoted, batch=batch)


def takes_model(function: Callable[..., object]) -> bool:
    """Whether the first parameter is called `model`, or annotated as a module."""
    first = first_parameter(function)
    if first is None:
        return False
    kind = first.annotation
    if isinstance(kind, str):
        return first.name == "model" or kind.rpartition(".")[2] == "Module"
    return first.name == "model" or (inspect.isclass(kind) and issubclass(kind, nn.Module))


def _arguments(inputs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    """How a model is called with what a batch has for it."""
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
        return tuple(inputs), {}
    return (inputs,), {}

"""Healthy variants as `gradscope check` trains them: the targets of this project's own pyproject.toml.

[[tool.gradscope.check]]
name = "relu"
model = "gradscope.scenarios.checked:RELU.model"
batch = "gradscope.scenarios.checked:RELU.batch"
loss = "gradscope.scenarios.checked:RELU.loss"
optimizer = "gradscope.scenarios.checked:RELU.optimizer"
"""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from gradscope.scenarios import plain_vs_residual, rnn_vs_lstm, sigmoid_vs_relu
from gradscope.scenarios.base import Scenario, Variant

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Checked:
    """A variant of a scenario, with the scenario's settings and the batches of its first seed."""

    scenario: Scenario
    variant: Variant

    def model(self) -> "nn.Module":
        """Builds it."""
        return self.variant.build(self.scenario.settings)

    def batch(self, step: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """What the scenario trains on in this step."""
        return next(islice(self.scenario.task(self.scenario.settings).batches(0), step, None))

    def loss(self, outputs: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """The task's."""
        return self.scenario.task(self.scenario.settings).loss(outputs, targets)

    def optimizer(self, model: "nn.Module") -> "torch.optim.Optimizer":
        """The variant's."""
        return self.variant.optimizer(model, self.scenario.settings)


def _checked(scenario: Scenario, name: str) -> Checked:
    return Checked(scenario, next(variant for variant in scenario.variants if variant.name == name))


RELU = _checked(sigmoid_vs_relu.SCENARIO, "relu")
RESIDUAL = _checked(plain_vs_residual.SCENARIO, "conv, residual + norm")
LSTM = _checked(rnn_vs_lstm.SCENARIO, "lstm, forget bias 1")

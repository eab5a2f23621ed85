"""How the variants are trained: by the setting "lr"."""

from typing import TYPE_CHECKING

from gradscope.scenarios.base import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn


def sgd(model: "nn.Module", settings: Settings) -> "torch.optim.Optimizer":
    """SGD with momentum 0.9. It shows a vanishing gradient for what it is; Adam rescales each parameter's."""
    import torch

    return torch.optim.SGD(model.parameters(), lr=float(settings["lr"]), momentum=0.9)


def adam(model: "nn.Module", settings: Settings) -> "torch.optim.Optimizer":
    """Adam with torch's defaults."""
    import torch

    return torch.optim.Adam(model.parameters(), lr=float(settings["lr"]))

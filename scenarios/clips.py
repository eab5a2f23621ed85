"""Ways to clip a gradient, each called between backward and step."""

from typing import TYPE_CHECKING

from gradscope.scenarios.base import Settings

if TYPE_CHECKING:
    from torch import nn

SMALLEST_WEIGHT = 1e-3  # a bias that starts at zero may still move; Brock et al. 2021, §4


def by_norm(model: "nn.Module", settings: Settings, *, limit: str = "norm") -> None:
    """Scales the whole gradient to a norm of at most the setting `limit`; its direction stays (Pascanu et al. 2013)."""
    from torch.nn.utils import clip_grad_norm_

    clip_grad_norm_(model.parameters(), float(settings[limit]))


def by_value(model: "nn.Module", settings: Settings) -> None:
    """Cuts each element to ± the setting "value"; this turns the gradient."""
    from torch.nn.utils import clip_grad_value_

    clip_grad_value_(model.parameters(), float(settings["value"]))


def adaptive(model: "nn.Module", settings: Settings) -> None:
    """Scales each parameter's gradient to at most the setting "ratio" of the parameter's norm.

    Source: Brock et al. 2021, eq. 3, by parameter instead of by unit.
    """
    import torch

    ratio = float(settings["ratio"])
    for parameter in model.parameters():
        if parameter.grad is not None:
            norm = torch.linalg.vector_norm(parameter.grad)
            largest = ratio * torch.linalg.vector_norm(parameter.detach()).clamp(min=SMALLEST_WEIGHT)
            parameter.grad.mul_((largest / norm).clamp(max=1.0))

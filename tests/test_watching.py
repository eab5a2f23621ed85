"""The comparison of bare and watched trainings has teeth: each kind of harm is noticed."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch_models import small, squares
from watching import Training, assert_harmless

import gradscope
import gradscope.probes
from gradscope import Scope

attach = gradscope.attach


def _training() -> Training:
    return squares(small(), 3, 4)


def _changes_little(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-5  # type: ignore[index]


HARM: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "a hundred-thousandth": (_changes_little, "loss 0"),
    "torch's random numbers": (lambda model: torch.rand(()), "loss 0"),
    "python's random numbers": (lambda model: random.random(), "python's generator"),
    "a hook": (lambda model: model[1].register_forward_hook(lambda *given: None), "_forward_hooks"),  # type: ignore[index]
    "a tensor's hook": (lambda model: model[0].weight.register_hook(lambda g: None), "_backward_hooks"),  # type: ignore[index]
    "an attribute": (lambda model: setattr(model[1], "forward", model[1].forward), "1.forward"),  # type: ignore[index]
}


@pytest.mark.parametrize(("harm", "named"), HARM.values(), ids=HARM)
def test_harm_is_noticed(harm: Callable[[nn.Module], object], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def harmful(model: nn.Module, **options: object) -> Scope:
        harm(model)
        return attach(model, **options)  # type: ignore[arg-type]

    assert_harmless(_training)
    monkeypatch.setattr(gradscope, "attach", harmful)
    with pytest.raises(AssertionError, match=named):
        assert_harmless(_training)


BLIND = {
    "gradients": (gradscope.probes.Activations, "the gradient of 0.weight was not observed"),
    "activations": (gradscope.probes.Parameters, "'0', '1', '2', '3'"),
}


@pytest.mark.parametrize(("probe", "named"), BLIND.values(), ids=BLIND)
def test_what_was_not_seen_is_noticed(
    probe: Callable[[], gradscope.probes.Probe], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradscope, "attach", lambda model, **options: attach(model, probes=[probe()], **options))
    with pytest.raises(AssertionError, match=named):
        assert_harmless(_training)

import pytest
import torch
from torch import nn

from gradscope.scenarios import clips


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.full_like(parameter, 4.0)
    return model


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_by_norm_keeps_the_direction(model):
    before = gradient(model)
    clips.by_norm(model, {"norm": 0.5})
    assert float(gradient(model).norm()) == pytest.approx(0.5, rel=1e-4)
    assert float(torch.cosine_similarity(before, gradient(model), dim=0)) == pytest.approx(1)


def test_by_norm_reads_the_setting_it_is_told(model):
    before = gradient(model)
    clips.by_norm(model, {"norm": 0.5, "norm_rare": 1e6}, limit="norm_rare")
    assert torch.equal(gradient(model), before)


def test_by_value_cuts_each_element(model):
    model[0].weight.grad[0, 0] = 0.1
    clips.by_value(model, {"value": 0.25})
    assert gradient(model).unique().tolist() == pytest.approx([0.1, 0.25])


def test_adaptive_limits_each_parameter_by_its_own_norm(model):
    model[1].weight.grad.fill_(1e-6)
    clips.adaptive(model, {"ratio": 0.1})
    first, last = model[0].weight, model[1].weight
    assert float(first.grad.norm() / first.detach().norm()) == pytest.approx(0.1)
    assert last.grad.tolist() == [[pytest.approx(1e-6)] * 2]


def test_adaptive_lets_a_zero_weight_move_and_passes_over_missing_and_zero_gradients(model):
    with torch.no_grad():
        model[0].bias.zero_()
    model[1].bias.grad = None
    model[1].weight.grad.zero_()
    clips.adaptive(model, {"ratio": 0.1})
    assert float(model[0].bias.grad.norm()) == pytest.approx(0.1 * clips.SMALLEST_WEIGHT)
    assert not model[1].weight.grad.any()

"""Where and when the spreads of outputs are recorded."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradscope
from gradscope.probes.spreads import now_and_then


def watched(model, *inputs, steps=1):
    scope = gradscope.attach(model)
    for _ in range(steps):
        out = model(*inputs)
        (out[0] if isinstance(out, tuple) else out).square().sum().backward()
        scope.step()
    scope.detach()
    return scope.trace


def spread(trace, module, name=None, stat="sample_spread"):
    return trace.series(module, "output", stat, name=name)


def test_it_is_measured_at_first_and_then_ever_more_rarely():
    trace = watched(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), torch.randn(6, 3), steps=70)
    seen = np.flatnonzero(~np.isnan(spread(trace, "0"))).tolist()
    assert seen == [0, 1, 2, 4, 8, 16, 32, 64] == [i for i in range(70) if now_and_then(i)]
    assert now_and_then(192)


def test_modules_functions_and_the_input_have_both():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(F.relu(self.first(x)))

    trace = watched(Net(), torch.randn(6, 3))
    for stat in ("sample_spread", "direction_spread"):
        assert trace.series("", "input", stat)[0] > 0.1
        assert all(spread(trace, module, stat=stat)[0] > 0 for module in ("first", "relu#0", "last"))


def test_a_batch_of_one_and_a_loss_have_none():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.loss = nn.Linear(3, 4), nn.MSELoss()

        def forward(self, x):
            return self.loss(self.body(x), torch.zeros(1, 4))

    trace = watched(Net(), torch.randn(1, 3))
    assert np.isnan(spread(trace, "body")).all()
    assert np.isnan(spread(trace, "loss")).all()


@pytest.mark.parametrize("batch_first", [True, False])
def test_samples_are_told_from_tokens_where_the_module_says_which_is_which(batch_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=batch_first)
    x = torch.randn(1, 5, 8).expand(4, 5, 8)  # the same sequence four times
    trace = watched(layer, x if batch_first else x.transpose(0, 1))
    assert spread(trace, "linear1")[0] < 1e-6
    assert spread(trace, "self_attn", "0")[0] < 1e-6
    assert spread(trace, "linear1", stat="direction_spread")[0] > 0.1


@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_tell_it_of_their_sequence_alone(batch_first):
    torch.manual_seed(0)
    x = torch.randn(1, 5, 3).expand(4, 5, 3)
    trace = watched(nn.GRU(3, 6, batch_first=batch_first), x if batch_first else x.transpose(0, 1))
    assert spread(trace, "", "0")[0] < 1e-6
    assert np.isnan(spread(trace, "", "1")).all()


def test_the_tokens_of_a_sequence_and_the_samples_of_images_are_the_rows():
    tokens = torch.randn(1, 7, 1).exp() * torch.randn(3, 1, 8)  # of each sample all in one direction
    plain = nn.Linear(8, 8, bias=False)
    assert spread(watched(plain, tokens), "", stat="direction_spread")[0] < 1e-10
    conv = nn.Sequential(nn.Conv1d(7, 7, 1, bias=False))
    assert spread(watched(conv, tokens), "0", stat="direction_spread")[0] > 0.1


def test_autocast_outputs_are_measured():
    model = nn.Linear(3, 4)
    with torch.autocast("cpu", torch.float16):
        trace = watched(model, torch.randn(6, 3))
    assert 0.1 < spread(trace, "")[0] < 1


def test_training_stays_equal_bit_by_bit():
    def weights(record):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters())
        scope = gradscope.attach(model, optimizer=optimizer) if record else None
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(6, 3)).square().sum().backward()
            optimizer.step()
        if scope:
            scope.detach()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(True), weights(False))

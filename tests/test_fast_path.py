"""Evaluating a transformer encoder gives the same bits as without gradscope, and its training is recorded."""

import pytest
import torch
from torch import nn

import gradscope


class Encoder(nn.Module):
    """Two encoder layers and a head; evaluation takes torch's fast path."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.encoder(x))


def train(*, watched: bool, calls_root: bool = True):
    torch.manual_seed(0)
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scope = gradscope.attach(model, optimizer=optimizer) if watched else None
    evaluations = []
    for _ in range(4):
        for micro in range(2):
            x = torch.randn(3, 5, 16)
            (model(x) if calls_root else model.head(model.encoder(x))).square().mean().backward()
            if micro == 0:
                with torch.no_grad():
                    evaluations.append(model.eval()(x))
                model.train()
        optimizer.step()
        optimizer.zero_grad()
        with torch.inference_mode():
            evaluations.append(model.eval()(x))
        model.train()
    return evaluations, [p.detach().clone() for p in model.parameters()], scope, model


def test_evaluation_has_the_same_bits_as_without():
    bare, watched = train(watched=False), train(watched=True)
    for one, other in zip((*bare[0], *bare[1]), (*watched[0], *watched[1]), strict=True):
        assert torch.equal(one, other)


def test_evaluation_takes_the_fast_path_and_a_hook_would_keep_it_from_that(monkeypatch):
    taken = []
    fast = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: taken.append(1) or fast(*args))
    model = train(watched=True)[3]
    assert len(taken) == 4 * 2 * 2  # steps, evaluations, layers
    model.encoder.layers[0].linear1.register_forward_hook(lambda *args: None)
    taken.clear()
    with torch.no_grad():
        model.eval()(torch.randn(3, 5, 16))
    assert len(taken) == 1


def test_its_training_is_recorded_with_all_that_is_in_the_layers():
    scope, model = train(watched=True)[2:]
    trace = scope.trace
    assert trace.steps.tolist() == [0, 1, 2, 3]
    for name in ("encoder.layers.0.linear1", "encoder.layers.1.self_attn", "head"):
        assert trace.by_time(name, "output", "numel").shape == (4, 2), name
    scope.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("during_evaluation", [True, False])
def test_detaching_leaves_no_hook_wherever_they_are(during_evaluation):
    model = Encoder()
    scope = gradscope.attach(model)
    if during_evaluation:
        with torch.no_grad():
            model.eval()(torch.randn(1, 2, 16))
    scope.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_hooks_of_others_keep_their_place_behind_ours():
    model = Encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scope = gradscope.attach(model, optimizer=optimizer)
    model.encoder.layers[0].linear1.register_forward_hook(lambda module, args, output: 100 * output)
    x = torch.randn(2, 3, 16)
    for _ in range(2):
        model.train()(x).sum().backward()
        optimizer.step()
        with torch.no_grad():
            model.eval()(x)
    scope.detach()
    before, after = scope.trace.series("encoder.layers.0.linear1", "output", "rms")
    assert after == pytest.approx(before, rel=0.5)  # but for dropout
